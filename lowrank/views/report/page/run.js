// One run: ranks, heat map, spectra with an epoch slider, accuracies and losses, norms, layers.
"use strict";

// How many values are above ε, of descending ones at some of their indices (from 1).
function countAbove(values, indices, epsilon) {
  if (values.includes(null)) return null;
  const above = values.filter((value) => value > epsilon).length;
  if (!above || above === values.length) return above && indices[above - 1];
  const [low, high] = [indices[above - 1], indices[above]];
  if (high === low + 1 || values[above] <= 0) return low;
  const share = Math.log(values[above - 1] / epsilon) / Math.log(values[above - 1] / values[above]);
  return low + Math.min(high - low - 1, Math.floor(share * (high - low)));
}

// A curve without the times within epochs at which nothing is known of it.
function measured(x, y) {
  const kept = y.map((value, i) => value !== null || Number.isInteger(x[i]));
  return { x: x.filter((_, i) => kept[i]), y: y.filter((_, i) => kept[i]) };
}

const OF_KIND = {
  qk: "W_QᵀW_K of heads", ov: "W_O W_V of heads", change: "change since the start",
  update: "update of the last step", gradient: "gradient on one batch",
};

class RunSection {
  constructor(section, narrow) {
    this.narrow = narrow;
    this.peers = [this];
    this.layers = section.layers;
    this.whole = section;
    this.kind = "weight";
    this.epochs = unpack(section.epochs);
    this.quantity = section.ranks[0] || Object.keys(section.quantities)[0];
    [this.norm] = section.sizes;
    this.lists = {};
    this.panels = [];
  }

  // The weight matrices, or what was measured beside them: the panels of layers show these.
  get kind() { return this.shownKind; }

  set kind(kind) {
    const beside = this.whole.beside.find((of) => of.kind === kind);
    this.section = beside ? { ...this.whole, ...beside, means: {}, bound: null, bound_words: "" } : this.whole;
    this.shownKind = beside ? kind : "weight";
    this.names = this.section.layers.map((layer) => layer.name);
    this.full = this.section.layers.map((layer) => Math.min(...layer.shape));
    this.picked = -1;
    this.tables = {};
    this.spectra = null;
    if (this.lists && this.lists.picked) this.lists.picked.replaceChildren(...options(this.picks()));
  }

  picks() {
    return [[-1, "all"], ...this.names.map((name, i) => [i, name])];
  }

  table(quantity) {
    if (!(quantity in this.section.tables)) return this.names.map(() => Array(this.epochs.length).fill(null));
    if (!(quantity in this.tables)) {
      this.tables[quantity] = unpackRows(this.section.tables[quantity], this.epochs.length);
    }
    return this.tables[quantity];
  }

  get top() {
    return Math.max(1, ...this.peers.flatMap((peer) => peer.full));
  }

  // Runs side by side share their axes: the range of a column over all of them.
  range(columnsOf, log) {
    const values = this.peers.flatMap(columnsOf).filter((v) => isNumber(v) && Number.isFinite(v) && (!log || v > 0));
    if (!values.length) return undefined;
    const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    if (!log) return [0, 1.06 * high || 1];
    const space = 0.06 * Math.log10(high / low) + 0.02;
    return [Math.log10(low) - space, Math.log10(high) + space];
  }

  logRange(columnsOf) {
    const range = this.range(columnsOf, true);
    return range ? logAxis(10 ** range[0], 10 ** range[1]) : {};
  }

  isRank(quantity) {
    return this.section.ranks.includes(quantity);
  }

  // Those of the runs side by side that are open, else this one.
  shownPeers() {
    return this.peers.filter((peer) => peer.panels.length);
  }

  // A list of choices that the runs side by side share, as far as each has them.
  linked(label, choices, name, read) {
    const made = choice(label, choices, this[name], (value) => {
      for (const peer of this.shownPeers()) {
        const list = peer.lists[name];
        if (!list || ![...list.options].some((option) => option.value === value)) continue;
        list.value = value;
        peer[name] = read(value);
        peer.update();
      }
    });
    this.lists[name] = made.querySelector("select");
    return made;
  }

  panel(options) {
    const made = new Panel({ ...options, name: `${this.section.id}-${options.name}` });
    this.panels.push(made);
    return made.node;
  }

  update() {
    for (const panel of this.panels) panel.update();
  }

  // ------------------------------------------------------------------------------- lines

  // Darker and thicker towards the input: none hides another at the same value.
  style(index) {
    const count = this.names.length;
    const many = count > MOST_NAMED;
    const thick = many ? 1.3 : 4.2 - (3 * index) / Math.max(1, count - 1);
    if (this.picked < 0) return { color: shade(index, count), width: thick };
    if (this.picked === index) return { color: VERMILION, width: 3.5 };
    return { color: "#c4c4c4", width: 0.8 };
  }

  layerLines(rows, x, hover) {
    const legend = this.names.length <= MOST_NAMED;
    const traces = rows.map((values, i) => ({
      type: "scatter", mode: values.length === 1 ? "markers" : "lines",
      ...measured(Array.isArray(x[0]) ? x[i] : x, values), name: plain(`${shortened(this.names[i])} (${this.full[i]})`), line: this.style(i),
      marker: { color: this.style(i).color, size: 8 }, showlegend: legend, legendgroup: String(i),
      hovertemplate: `${plain(this.names[i])}, full rank ${this.full[i]}<br>${hover}<extra></extra>`,
    }));
    // The picked layer is drawn last, above the others.
    if (this.picked >= 0) traces.push({ ...traces[this.picked], showlegend: false });
    const names = this.names.map((name, i) => `${name} (${this.full[i]})`);
    return legend ? traces : [...traces, stepsBar(names, "layer (full rank)", true)];
  }

  legend() {
    const title = { text: "layer (full rank), from input to output", side: "top" };
    return this.narrow
      ? { orientation: "h", x: 0, y: -0.22, yanchor: "top", font: { size: 11 }, title }
      : { x: 1.01, y: 1, font: { size: 12 }, title: { ...title, text: "layer (full rank)" } };
  }

  margins() {
    return { l: 70, r: 20, t: 10, b: this.narrow && this.names.length <= MOST_NAMED ? 130 : 54 };
  }

  layerRows(columns, rowsOf) {
    const rows = this.names.flatMap((name, i) => rowsOf(i).map((row) => [name, this.full[i], ...row]));
    return { columns: ["layer", "full_rank", ...columns], rows };
  }

  // ------------------------------------------------------------------------------- ranks

  drawRanks() {
    const rows = this.table(this.quantity);
    const traces = this.layerLines(rows, this.epochs, "epoch %{x}: %{y:.4~g}");
    const mean = this.section.means[this.quantity] ? unpack(this.section.means[this.quantity]) : null;
    if (mean) {
      traces.push({
        type: "scatter", mode: mean.length === 1 ? "markers" : "lines", ...measured(this.epochs, mean),
        name: "mean of hidden layers", line: { color: "#000", width: 2.5, dash: "dash" },
        marker: { color: "#000" }, hovertemplate: "mean of hidden layers<br>epoch %{x}: %{y:.4~g}<extra></extra>",
        showlegend: this.names.length <= MOST_NAMED,
      });
    }
    traces.push(...this.boundTraces(), ...this.collapseMarks(rows));
    const isRank = this.isRank(this.quantity);
    const full = [...new Set(this.full)].sort((a, b) => b - a);
    const apart = full.filter((value, i) => full.slice(0, i).every((above) => above - value > 0.06 * this.top));
    return {
      traces,
      height: this.narrow ? 500 : 430,
      layout: {
        legend: this.legend(),
        margin: this.margins(),
        xaxis: epochAxis(this.epochs),
        yaxis: axis(this.whole.quantities[this.quantity], { range: isRank ? [0, 1.08 * this.top] : undefined, rangemode: "tozero" }),
        shapes: isRank ? full.map((value) => ({
          type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value,
          line: { color: "#888", width: 1, dash: "dot" }, layer: "below",
        })) : [],
        annotations: isRank ? apart.map((value) => ({
          text: `full rank ${value}`, xref: "paper", x: 1, xanchor: "right", y: value, yanchor: "bottom",
          showarrow: false, font: { size: 11, color: "#444" }, bgcolor: "rgba(255,255,255,0.7)", borderpad: 0,
        })) : [],
      },
      table: () => ({
        columns: ["layer", "full_rank", "epoch", this.quantity],
        rows: [
          ...this.layerRows([], (i) => rows[i].map((value, e) => [this.epochs[e], value])).rows,
          ...(mean || []).map((value, e) => ["mean of hidden layers", null, this.epochs[e], value]),
        ],
      }),
      remark: [this.thinned(), isRank ? this.section.bound_words : "",
        this.names.length > MOST_NAMED && mean ? "Dashed: mean of hidden layers." : ""].filter(Boolean).join(" "),
    };
  }

  thinned() {
    const { of_epochs: all } = this.section;
    return all > this.epochs.length ? `${this.epochs.length} of ${all} measurements are drawn; the record holds all.` : "";
  }

  boundTraces() {
    if (!this.section.bound || this.quantity !== this.section.ranks[0]) return [];
    return unpackRows(this.section.bound, this.epochs.length).map((values, i) => ({
      type: "scatter", mode: "lines", ...measured(this.epochs, values), showlegend: false,
      line: { color: this.style(i).color, width: 2, dash: "dot" }, legendgroup: String(i),
      hovertemplate: `${plain(this.names[i])}: rank bound %{y:.4~g}<extra></extra>`,
    })).filter((trace) => trace.y.some(isNumber));
  }

  collapseMarks(rows, epochs = this.epochs) {
    const ends = rows.map((values, i) => [i, values.findLastIndex(isNumber)])
      .filter(([i, last]) => last < rows[i].length - 1);
    if (!ends.length) return [];
    const x = ends.map(([, last]) => epochs[Math.max(0, last)]);
    const y = ends.map(([i, last]) => (last < 0 ? 0 : rows[i][last]));
    return [{
      type: "scatter", mode: "markers", name: "collapsed: no rank", x, y, showlegend: true,
      marker: { symbol: "x", size: 9, color: "#000" }, text: ends.map(([i]) => plain(this.names[i])),
      hovertemplate: "%{text} collapsed: no rank after epoch %{x}<extra></extra>",
    }];
  }

  drawHeatmap() {
    const isRank = this.isRank(this.quantity);
    const table = this.table(this.quantity);
    const kept = this.epochs.map((epoch, e) => Number.isInteger(epoch) || table.some((values) => values[e] !== null));
    const rows = table.map((values) => values.filter((_, e) => kept[e]));
    const epochs = this.epochs.filter((_, e) => kept[e]);
    const isShare = !this.whole.shapes.includes(this.quantity);
    const shares = isShare ? rows.map((values, i) => scaled(values, 1 / this.full[i])) : rows;
    const labels = this.names.map((name, i) => `${shortened(name)} (${this.full[i]})`);
    const y = this.names.map((_, i) => i);
    const what = this.whole.quantities[this.quantity];
    return {
      traces: [{
        type: "heatmap", x: epochs, y, z: shares, ...(isShare ? { zmin: 0, zmax: 1 } : {}), colorscale: "Cividis",
        customdata: rows.map((values, i) => values.map((value) => `${plain(this.names[i])}: ${shown(value)}${isShare ? ` of ${this.full[i]}` : ""}`)),
        hovertemplate: "epoch %{x}, %{customdata}<extra></extra>", hoverongaps: false,
        colorbar: { title: { text: isRank ? "rank / full rank" : `${what.split(" ‖")[0]}${isShare ? " / full rank" : ""}`, side: "right" }, outlinewidth: 0, thickness: 14 },
      }],
      height: 110 + Math.max(120, (this.names.length > 30 ? 13 : 20) * this.names.length),
      layout: {
        xaxis: epochAxis(epochs, { showgrid: false, range: undefined }),
        yaxis: axis("layer (full rank)", {
          autorange: "reversed", showgrid: false, tickvals: y, ticktext: labels.map(plain),
          tickfont: { size: this.names.length > 30 ? 10 : 11 }, automargin: true,
        }),
        plot_bgcolor: "#d0d0d0",
      },
      table: () => this.layerRows(["epoch", this.quantity, ...(isShare ? ["share_of_full_rank"] : [])], (i) =>
        rows[i].map((value, e) => [epochs[e], value, ...(isShare ? [shares[i][e]] : [])])),
      remark: !shares.some((values) => values.some((value) => value === null)) ? ""
        : `Grey: ${!isShare ? "no value" : this.kind === "weight" ? "collapsed, no rank" : "no rank"}.`,
    };
  }

  // ----------------------------------------------------------------------------- spectra

  loadSpectra() {
    if (this.spectra) return this.spectra;
    const epochs = unpack(this.section.spectra.epochs);
    const layers = this.section.spectra.layers.map((layer, i) => {
      const indices = unpack(layer.indices);
      return {
        indices, x: indices.map((index) => index / this.full[i]),
        values: unpackRows(layer.values, indices.length),
      };
    });
    this.spectra = { epochs, layers };
    if (this.at === undefined) this.at = epochs.length - 1;
    return this.spectra;
  }

  drawSpectra() {
    const { epochs, layers } = this.loadSpectra();
    if (!epochs.length) return emptyPlot("No spectrum has been recorded yet.");
    const rows = layers.map((layer) => layer.values[this.at]);
    const lowest = Math.min(...this.section.epsilons, 1e-2) / 30;
    const gone = rows.filter((values) => values.every((value) => value === null)).length;
    return {
      traces: this.layerLines(rows, layers.map((layer) => layer.x), "index / number %{x:.2f}: σ/‖W‖ = %{y:.3~g}"),
      height: this.narrow ? 500 : 430,
      layout: {
        legend: this.legend(),
        margin: this.margins(),
        // Beyond 1 there is room for the names of the dashed lines.
        xaxis: axis("index / number of singular values", { range: [0, this.narrow ? 1.16 : 1.1] }),
        yaxis: axis(`σ / ${this.section.norm}`, {
          ...logAxis(lowest, 10 ** 0.15),
        }),
        ...dashedLines([...new Set([...this.section.epsilons, this.epsilon])]),
      },
      table: () => this.layerRows(["epoch", "index", "sigma_over_norm"], (i) =>
        layers[i].indices.map((index, k) => [epochs[this.at], index, rows[i][k]])),
      remark: "What lies above a dashed line counts in the rank at that ε." +
        (gone ? ` ${gone} layers are zero or not finite here and have no spectrum.` : ""),
    };
  }

  // Ranks at the slider's ε, counted in the spectra that the page has.
  drawAnyEpsilon() {
    const { epochs, layers } = this.loadSpectra();
    if (!epochs.length) return emptyPlot("No spectrum has been recorded yet.");
    const { gone } = this.section.spectra;
    const rows = layers.map(({ indices, values }, i) => values.map((at, e) =>
      ((gone[i] || []).includes(e) ? null : countAbove(at, indices, this.epsilon))));
    const thin = layers.some(({ indices }, i) => indices.length < this.full[i]);
    return {
      traces: [...this.layerLines(rows, epochs, "epoch %{x}: %{y:.4~g}"), ...this.collapseMarks(rows, epochs)],
      height: this.narrow ? 500 : 400,
      layout: {
        legend: this.legend(), margin: this.margins(), xaxis: epochAxis(epochs),
        yaxis: axis(`rank at ε = ${shown(this.epsilon, 3)}`, { range: [0, 1.08 * this.top] }),
      },
      table: () => this.layerRows(["epoch", "epsilon", "rank"], (i) => rows[i].map((value, e) => [epochs[e], this.epsilon, value])),
      remark: `Counted in the spectra of ${epochs.length} epochs` + (thin ? ", between whose drawn values it is interpolated." : "."),
    };
  }

  // Test accuracy with every counted matrix at a lower rank, an epoch a curve.
  drawTruncated() {
    const { epochs: packed, names, ranks, accuracies, full } = this.section.truncated;
    const epochs = unpack(packed);
    const [x, y] = [ranks, accuracies].map((rows, i) => unpackRows(rows, names.length).map((row) => scaled(row, i ? 100 : 1 / full)));
    const least = Math.min(...x.flat());
    const at = [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1].filter((share) => share >= 0.8 * least);
    return {
      traces: [...epochs.map((epoch, e) => {
        const order = names.map((_, i) => i).sort((a, b) => x[e][a] - x[e][b]);
        const pick = (row) => order.map((i) => row[i]);
        return {
          type: "scatter", mode: "lines+markers", x: pick(x[e]), y: pick(y[e]), text: pick(names), showlegend: false,
          line: { color: shade(e, epochs.length), width: 1.5 },
          marker: { color: shade(e, epochs.length), size: 7, symbol: order.map((i) => (names[i].startsWith("energy") ? "triangle-up" : "circle")) },
          hovertemplate: `epoch ${epoch}, %{text}<br>%{y:.1f} % at %{x:.3f} of full rank<extra></extra>`,
        };
      }), stepsBar(epochs.map(String), "epoch", false)],
      height: 380,
      layout: {
        margin: { l: 70, r: 20, t: 10, b: 54 },
        xaxis: axis("rank kept / full rank, mean of the counted matrices", {
          type: "log", range: [Math.log10(0.85 * least), 0.05], tickvals: at, ticktext: at.map((share) => (share < 1 ? `1/${1 / share}` : "1")),
        }),
        yaxis: axis("test accuracy in %", { range: [0, 102] }),
      },
      table: () => ({
        columns: ["epoch", "kept", "share_of_full_rank", "test_accuracy"],
        rows: epochs.flatMap((epoch, e) => names.map((name, i) => [epoch, name, x[e][i], y[e][i] === null ? null : y[e][i] / 100])),
      }),
      remark: "Every counted matrix keeps its largest singular values only: a share of full rank (●) or of ‖W‖² (▲).",
    };
  }

  epsilonSlider() {
    [this.epsilon = 1e-3] = this.section.epsilons;
    const said = element("output", {}, shown(this.epsilon, 3));
    const range = element("input", {
      type: "range", min: -5, max: -0.3, step: 0.01, value: Math.log10(this.epsilon), "aria-valuetext": said.textContent,
      oninput: () => { for (const peer of this.shownPeers()) peer.showEpsilon(Number((10 ** Number(range.value)).toPrecision(3))); },
    });
    this.showEpsilon = (epsilon) => {
      this.epsilon = epsilon;
      range.value = Math.log10(epsilon);
      said.textContent = shown(epsilon, 3);
      range.setAttribute("aria-valuetext", said.textContent);
      for (const panel of [this.anyPanel, this.spectraPanel]) panel.update();
    };
    return element("label", { class: "epsilon" }, "ε ", range, said);
  }

  slider() {
    const { epochs } = this.loadSpectra();
    const said = element("output", {}, epochs.length ? `epoch ${epochs[this.at]}` : "no epoch");
    const range = element("input", {
      type: "range", min: 0, max: Math.max(0, epochs.length - 1), step: 1, value: this.at,
      oninput: () => this.show(Number(range.value)),
    });
    this.show = (place) => {
      this.at = place;
      range.value = place;
      said.textContent = `epoch ${epochs[place]}`;
      range.setAttribute("aria-valuetext", said.textContent);
      this.spectraPanel.update();
    };
    return element("label", { class: "slider" }, "Epoch ", range, said);
  }

  // -------------------------------------------------------------- accuracies, norms, table

  scalarNames(kind) {
    return [`train_${kind}`, `test_${kind}`].filter((name) => name in this.section.scalars);
  }

  // Whatever else was logged once per epoch.
  drawMetric() {
    const epochs = unpack(this.section.scalar_epochs);
    const values = unpack(this.section.further[this.metric]);
    return {
      traces: [{
        type: "scatter", mode: isolated(values.map((v, i) => (v === null ? null : epochs[i]))) ? "markers" : "lines", x: epochs, y: values,
        name: plain(this.metric), line: { color: BLUE, width: 2 }, hovertemplate: "epoch %{x}: %{y:.4~g}<extra></extra>",
      }],
      height: 300,
      layout: {
        margin: { l: 70, r: 20, t: 34, b: 54 }, xaxis: epochAxis(epochs),
        yaxis: axis(this.metric),
      },
      table: () => ({ columns: ["epoch", this.metric], rows: epochs.map((epoch, e) => [epoch, values[e]]) }),
    };
  }

  drawScalars(kind) {
    const epochs = unpack(this.section.scalar_epochs);
    const factor = kind === "accuracy" ? 100 : 1;
    const names = this.scalarNames(kind);
    const columns = names.map((name) => scaled(unpack(this.section.scalars[name]), factor));
    const traces = names.map((name, i) => ({
      type: "scatter", mode: epochs.length === 1 ? "markers" : "lines", x: epochs, y: columns[i],
      name: name.replace("_", " "),
      line: name.startsWith("test") ? { color: BLUE, width: 2 } : { color: VERMILION, width: 2, dash: "dash" },
      hovertemplate: `${name.replace("_", " ")}<br>epoch %{x}: %{y:.4~g}<extra></extra>`,
    }));
    return {
      traces,
      height: 300,
      layout: {
        legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
        margin: { l: 70, r: 20, t: 34, b: 54 },
        xaxis: epochAxis(epochs),
        yaxis: kind === "accuracy" ? axis("accuracy in %", { range: [0, 102] }) : axis("loss (mean over examples)", { range: this.range((peer) => names.flatMap((name) => (peer.section.scalars[name] ? unpack(peer.section.scalars[name]) : []))) }),
      },
      table: () => ({
        columns: ["epoch", ...names],
        rows: epochs.map((epoch, e) => [epoch, ...names.map((name) => unpack(this.section.scalars[name])[e])]),
      }),
    };
  }

  drawNorms() {
    if (!this.norm) return emptyPlot("No norm was recorded.");
    const rows = this.table(this.norm);
    return {
      traces: this.layerLines(rows, this.epochs, "epoch %{x}: %{y:.4~g}"),
      height: this.narrow ? 460 : 380,
      layout: {
        legend: this.legend(), margin: this.margins(), xaxis: epochAxis(this.epochs),
        yaxis: axis(this.whole.quantities[this.norm], {
          type: "log",
          ...this.logRange((peer) => (this.norm in peer.section.tables ? peer.table(this.norm).flat() : [])),
        }),
      },
      table: () => this.layerRows(["epoch", this.norm], (i) => rows[i].map((value, e) => [this.epochs[e], value])),
      remark: this.thinned(),
    };
  }

  layerTable() {
    const ranks = this.section.ranks;
    const first = (quantity, i) => this.table(quantity)[i][0];
    const last = (quantity, i) => this.table(quantity)[i][this.epochs.length - 1];
    const { quantities, sizes } = this.section;
    const further = Object.keys(quantities).filter((q) => q !== ranks[0] && !sizes.includes(q));
    const bound = this.section.bound ? unpackRows(this.section.bound, this.epochs.length) : null;
    const heads = ["layer", "shape", "in rank_mean", "full rank",
      ...(ranks.length ? ["rank at the start", "rank at the end", "share of full rank"] : []),
      ...further.map((quantity) => quantity.replace(/_/g, " ")), ...(bound ? ["rank bound"] : [])];
    const rows = this.layers.map((layer, i) => {
      const end = ranks.length ? last(ranks[0], i) : null;
      return [layer.name, layer.shape.join(" × "), layer.counted ? "yes" : "no", this.full[i],
        ...(ranks.length ? [first(ranks[0], i), end, end === null ? null : end / this.full[i]] : []),
        ...further.map((quantity) => last(quantity, i)),
        ...(bound ? [bound[i][this.epochs.length - 1]] : [])];
    });
    const share = heads.indexOf("share of full rank");
    const cell = (value, column) => (column === share ? percent(value) : isNumber(value) || value === null ? shown(value) : value);
    const csv = element("button", { type: "button", class: "csv",
      onclick: () => download(`${this.section.id}-layers.csv`, csvText({ columns: heads, rows })) }, "CSV");
    return element("details", {}, element("summary", {}, `Layers (${this.layers.length})`), csv,
      element("div", { class: "scroll" }, element("table", {},
        element("thead", {}, element("tr", {}, ...heads.map((head, i) => element("th", { class: i > 2 ? "number" : null }, head)))),
        element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((value, i) =>
          element("td", { class: i > 2 ? "number" : null }, String(cell(value, i))))))))));
  }

  // ------------------------------------------------------------------------------- whole

  facts(name, pairs) {
    return element("details", {}, element("summary", {}, name),
      element("dl", { class: "facts" }, ...pairs.flatMap(([key, value]) =>
        [element("dt", {}, key), element("dd", {}, value)])));
  }

  content() {
    if (!this.epochs.length) {
      return [element("p", {}, "No epoch has been recorded yet: there is nothing to draw."),
        this.facts("Configuration", this.section.config), this.facts("Environment", this.section.environment)];
    }
    const { quantities, sizes: norms } = this.section;
    const choices = Object.entries(quantities).filter(([q]) => !norms.includes(q));
    const beside = this.section.beside.map((of) => [of.kind, `${OF_KIND[of.kind]} (${of.layers.length})`]);
    const controls = element("div", { class: "controls section-controls" },
      choices.length ? this.linked("Quantity", choices, "quantity", String) : null,
      beside.length ? this.linked("Matrices", [["weight", `weights (${this.names.length})`], ...beside], "kind", String) : null,
      this.linked("Highlight layer", this.picks(), "picked", Number));
    const nodes = choices.length ? [
      controls,
      this.panel({ title: "Every layer over epochs", name: "ranks", draw: () => this.drawRanks() }),
      this.panel({ title: "Layer by epoch", name: "heatmap", draw: () => this.drawHeatmap() }),
    ] : [element("p", {}, "No rank has been recorded.")];
    nodes.push(this.panel({ title: "Spectrum of every layer", name: "spectra", controls: [this.slider()], draw: () => this.drawSpectra() }));
    this.spectraPanel = this.panels[this.panels.length - 1];
    nodes.push(this.panel({ title: "Rank at any ε", name: "any-epsilon", controls: [this.epsilonSlider()], draw: () => this.drawAnyEpsilon() }));
    this.anyPanel = this.panels[this.panels.length - 1];
    if (this.section.truncated) nodes.push(this.panel({ title: "Accuracy at lower ranks", name: "truncated", draw: () => this.drawTruncated() }));
    const kinds = ["accuracy", "loss"].filter((kind) => this.scalarNames(kind).length);
    const further = Object.keys(this.section.further);
    const halves = kinds.map((kind) => this.panel({
      title: kind === "loss" ? "Loss" : "Accuracy", name: kind, draw: () => this.drawScalars(kind),
    }));
    if (further.length) {
      [this.metric] = further;
      const panel = this.panels.length;
      halves.push(this.panel({
        title: "Metrics", name: "metrics", draw: () => this.drawMetric(),
        controls: further.length > 1 ? [choice("Metric", further.map((name) => [name, name]), this.metric, (name) => { this.metric = name; this.panels[panel].update(); })] : [],
      }));
    }
    if (halves.length) nodes.push(element("div", { class: this.narrow ? "" : "halves" }, ...halves));
    if (this.norm) nodes.push(this.panel({
      title: "Norms", name: "norms", draw: () => this.drawNorms(),
      controls: norms.length > 1 ? [choice("Norm", norms.map((q) => [q, quantities[q]]), this.norm, (q) => { this.norm = q; this.panels[this.panels.length - 1].update(); })] : [],
    }));
    nodes.push(choices.length ? this.layerTable() : null, this.facts("Configuration", this.section.config),
      this.facts(`Environment (${this.section.sessions} session${this.section.sessions === 1 ? "" : "s"})`, this.section.environment));
    return nodes.filter(Boolean);
  }
}
