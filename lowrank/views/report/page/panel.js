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

  dispose() {
    PANELS.splice(PANELS.indexOf(this), 1);
    Plotly.purge(this.plot);
  }
}

// The numbers 1, 2 and 5 times a power of ten, or the powers alone, from low to high.
function factorTicks(low, high, factors) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const factor of factors) found.push(Number(`${factor}e${power}`));
  }
  return found.filter((tick) => tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9));
}

// At most so many ticks between two numbers above 0, for a logarithmic axis.
function logTicks(low, high, most = 7) {
  const fits = [[1, 2, 5], [1, 3], [1]].map((factors) => factorTicks(low, high, factors)).find((found) => found.length <= most);
  const powers = factorTicks(low, high, [1]);
  if (!fits) return powers.filter((_, i) => i % Math.ceil(powers.length / most) === 0);
  if (fits.length > 2) return fits;
  const step = [1, 2, 5, 10].map((factor) => factor * 10 ** Math.floor(Math.log10((high - low) / 4)))
    .find((each) => (high - low) / each <= 5);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.max(0, Math.floor(high / step) - first + 1) }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

// 0.02 as it is, beyond four places as a power: 10⁻⁵, 2·10⁻⁵.
function tickText(value) {
  if (value >= 1e-3 && value < 1e5) return String(value);
  const power = Math.floor(Math.log10(value) + 1e-9);
  const factor = Number((value / 10 ** power).toPrecision(3));
  return `${factor === 1 ? "" : `${factor}·`}10<sup>${power < 0 ? "−" : ""}${Math.abs(power)}</sup>`;
}

// A logarithmic axis from low to high, or with ticks at given values.
function logAxis(low, high, at = logTicks(low, high)) {
  return {
    type: "log", range: [Math.log10(low), Math.log10(high)], tickvals: at, ticktext: at.map(tickText),
  };
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
