// A panel: one plot with its title, controls, remark and the button that gives its data as CSV.
"use strict";

const PANELS = [];
const FONT = { family: "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif", size: 13, color: "#222" };
const GRID = { gridcolor: "#e6e6e6", linecolor: "#666", showline: true, ticks: "outside", tickcolor: "#666", zeroline: false };

// Height of plotly's icons, which get room above the data.
const ICONS = 34;

// draw() gives {traces, layout, height, table: () => ({columns, rows}), remark}.
class Panel {
  constructor({ title, name, controls = [], draw }) {
    this.draw = draw;
    this.plot = element("div", { class: "plot" });
    this.remark = element("p", { class: "remark" });
    this.table = null;
    const csv = element("button", {
      type: "button", class: "csv", title: "The numbers of this plot, as they are drawn",
      onclick: () => download(`${name}.csv`, csvText(this.table())),
    }, "CSV");
    const bar = element("div", { class: "controls" }, ...controls, csv);
    this.node = element("figure", { class: "panel", "data-name": name },
      element("figcaption", {}, element("h3", {}, title), bar), this.plot, this.remark);
    PANELS.push(this);
  }

  update() {
    const { traces, layout, height, table, remark } = this.draw(this.plot.clientWidth || 1100);
    this.table = table;
    this.remark.textContent = remark || "";
    const margin = { l: 70, r: 20, b: 54, ...layout.margin };
    const room = Math.max(0, ICONS - (margin.t || 0));
    margin.t = (margin.t || 0) + room;
    const full = {
      font: FONT, height: height + room, hovermode: "closest",
      paper_bgcolor: "white", plot_bgcolor: "white", hoverlabel: { align: "left" }, ...layout, margin,
    };
    const config = {
      responsive: true, displaylogo: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    };
    Plotly.react(this.plot, traces, full, config);
    this.drawn = true;
  }
}

function epochAxis(epochs, more = {}) {
  const last = epochs.length ? Math.max(...epochs) : 1;
  const space = Math.max(0.5, 0.015 * last);
  return {
    ...GRID, title: { text: "epoch" }, range: [-space, last + space],
    tickformat: "d", ...(last < 8 ? { dtick: 1 } : {}), ...more,
  };
}

const axis = (text, more = {}) => ({ ...GRID, title: { text: axisText(text), standoff: 8 }, ...more });

// A logarithmic axis with ticks at powers of ten.
const POWERS = { type: "log", exponentformat: "power", dtick: 1 };

// Thresholds as dashed lines with their names at the right end.
function dashedLines(epsilons) {
  return {
    shapes: epsilons.map((value) => ({
      type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value,
      line: { color: "#555", width: 1, dash: "dash" },
    })),
    annotations: epsilons.map((value) => ({
      text: `ε = ${shown(value)}`, xref: "paper", x: 1, xanchor: "right", y: Math.log10(value),
      yanchor: "bottom", showarrow: false, font: { size: 11 },
    })),
  };
}

function emptyPlot(text) {
  return {
    traces: [], height: 120, table: () => ({ columns: [], rows: [] }),
    layout: {
      xaxis: { visible: false }, yaxis: { visible: false },
      annotations: [{ text: plain(text), showarrow: false, x: 0.5, y: 0.5, xref: "paper", yref: "paper" }],
    },
  };
}

// Paper is narrower than the screen, and plotly draws in pixels.
const PAPER_WIDTH = 680;
addEventListener("beforeprint", () => {
  for (const panel of PANELS) {
    if (!panel.drawn || !panel.plot.clientWidth) continue;
    const half = panel.node.closest(".pair, .halves");
    Plotly.relayout(panel.plot, { width: half ? PAPER_WIDTH / 2 - 8 : PAPER_WIDTH });
  }
});
addEventListener("afterprint", () => {
  for (const panel of PANELS) {
    if (panel.drawn) Plotly.relayout(panel.plot, { width: null, autosize: true });
  }
});
