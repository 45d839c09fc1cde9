// Many runs: curves, the landscape over two settings, and rank against accuracy.
"use strict";

const MOST_NAMED = 12;
const FIELDS = DATA.fields;
const AXES = DATA.axes.map(unpack);
const HAS_RANK = (run) => !/collapsed|dead/.test(run.ends);
const IS_WHOLE = (run) => run.ends === "finished";

Object.assign(DATA.quantities, DATA.metrics);
const HAS_ACCURACY = DATA.runs.some((run) => "test_accuracy" in run.curves || "train_accuracy" in run.curves);

const view = {
  quantity: Object.keys(DATA.quantities)[0],
  accuracy: DATA.runs.some((run) => "test_accuracy" in run.curves) ? "test_accuracy" : "train_accuracy",
  field: Math.max(0, FIELDS.findIndex((field) => field.name === "weight_decay")),
  x: FIELDS.findIndex((field) => field.name !== "seed"),
  y: FIELDS.findLastIndex((field) => field.name !== "seed"),
  filter: "",
  state: "",
};

const curveCache = new Map();
function curve(index, name) {
  const key = `${index} ${name}`;
  if (!curveCache.has(key)) {
    const packed = DATA.runs[index].curves[name];
    curveCache.set(key, packed ? unpack(packed) : null);
  }
  return curveCache.get(key);
}

function levelOf(run, field) {
  return FIELDS[field] ? run.levels[field] : 0;
}

function levelText(run, field) {
  return FIELDS[field].texts[run.levels[field]];
}

// The settings that vary, as one would write them.
function pointText(run) {
  return FIELDS.map((field, i) => `${field.name}=${levelText(run, i)}`).join(" ");
}

function runText(run) {
  return plain(`${run.id} · ${run.ends} · ${pointText(run)}`);
}

// Numbers have an order, hence shades; other values have none, hence distinct colours.
function levelColour(field, level) {
  const of = FIELDS[field];
  if (!of) return BLUE;
  if (of.numbers || of.texts.length > OKABE_ITO.length) return shade(level, of.texts.length);
  return OKABE_ITO[level];
}

function levelsOf(runs) {
  return [...new Set(runs.map((index) => levelOf(DATA.runs[index], view.field)))].sort((a, b) => a - b);
}

function levelNames(field) {
  return FIELDS[field] ? FIELDS[field].texts : ["all runs"];
}

// ---------------------------------------------------------------------------------- curves

function curveOf(index, name, factor) {
  const values = curve(index, name);
  return values ? { x: AXES[DATA.runs[index].axis], y: scaled(values, factor) } : null;
}

// The runs of every point, which differ in their seeds only.
function pointsOf(runs) {
  const points = new Map();
  for (const index of runs) {
    const key = DATA.runs[index].group;
    if (!points.has(key)) points.set(key, []);
    points.get(key).push(index);
  }
  return [...points.values()];
}

const HAS_SEEDS = pointsOf(DATA.runs.map((_, index) => index)).some((members) => members.length > 1);
view.mean = HAS_SEEDS;
const isAveraged = () => view.mean && (FIELDS[view.field] || {}).name !== "seed";

// Mean and deviation over runs at the places that all have; seriesOf(index) gives {x, y}.
function meanOf(members, seriesOf) {
  const at = new Map();
  for (const index of members) {
    const { x, y } = seriesOf(index);
    x.forEach((place, i) => {
      if (y[i] === null) return;
      if (!at.has(place)) at.set(place, []);
      at.get(place).push(y[i]);
    });
  }
  const x = [...at.keys()].filter((place) => at.get(place).length === members.length).sort((a, b) => a - b);
  const first = DATA.runs[members[0]];
  return {
    x, n: members.length,
    level: levelOf(first, view.field),
    point: FIELDS.map((field, i) => `${field.name}=${levelText(first, i)}`)
      .filter((_, i) => FIELDS[i].name !== "seed").join(" "),
    y: x.map((place) => average(at.get(place))),
    deviation: x.map((place) => deviation(at.get(place))),
  };
}

// What is drawn: means over the finished runs of each point and the others one by one, as in
// figures, or every run. A run that collapsed, died or is not finished is in no mean.
function meansAndRuns(runs, seriesOf) {
  const able = runs.filter(seriesOf);
  if (!isAveraged()) return { means: [], single: able };
  const whole = able.filter((index) => IS_WHOLE(DATA.runs[index]));
  return {
    means: pointsOf(whole).map((members) => meanOf(members, seriesOf)),
    single: able.filter((index) => !IS_WHOLE(DATA.runs[index])),
  };
}

// Whether no curve has more than one point, so that lines would show nothing.
function isolated(x) {
  return x.every((value, i) => value === null || (x[i + 1] ?? null) === null && (x[i - 1] ?? null) === null);
}

function bandTraces(means, yaxis, least) {
  const byLevel = new Map();
  for (const { x, y, deviation: sd, level } of means.filter((mean) => mean.n > 1)) {
    if (!byLevel.has(level)) byLevel.set(level, { x: [], y: [] });
    const outline = byLevel.get(level);
    outline.x.push(...x, ...x.slice().reverse(), null);
    outline.y.push(...y.map((v, i) => v + sd[i]), ...y.map((v, i) => Math.max(least, v - sd[i])).reverse(), null);
  }
  return [...byLevel].map(([level, { x, y }]) => ({
    type: "scatter", mode: "lines", x, y, yaxis, fill: "toself", hoverinfo: "skip",
    line: { width: 0 }, fillcolor: translucent(levelColour(view.field, level), 0.2),
    showlegend: false, legendgroup: String(level),
  }));
}

// One trace for each level of the coloured setting, with gaps between its lines.
function lineTraces(runs, seriesOf, { yaxis = "y", hover = "epoch %{x}: %{y:.4~g}", band = true, line = {}, least = -Infinity } = {}) {
  const { means, single } = meansAndRuns(runs, seriesOf);
  const found = [
    ...means.map((mean) => ({ ...mean, text: mean.x.map((_, i) =>
      plain(`${mean.point} · sd ${shown(mean.deviation[i])}, n = ${mean.n}`)) })),
    ...single.map((index) => {
      const { x, y } = seriesOf(index);
      return { x, y, level: levelOf(DATA.runs[index], view.field), text: x.map(() => runText(DATA.runs[index])) };
    }),
  ];
  const lines = new Map();
  for (const { x, y, text, level } of found) {
    if (!lines.has(level)) lines.set(level, { x: [], y: [], text: [] });
    const of = lines.get(level);
    of.x.push(...x, null);
    of.y.push(...y, null);
    of.text.push(...text, "");
  }
  const many = found.length > 40;
  const levels = [...lines.keys()].sort((a, b) => a - b);
  return [...(band ? bandTraces(means, yaxis, least) : []), ...levels.map((level) => ({
    type: "scatter", mode: isolated(lines.get(level).x) ? "markers" : "lines",
    ...lines.get(level), yaxis, legendgroup: String(level), showlegend: false,
    opacity: many ? 0.65 : 1,
    line: { color: levelColour(view.field, level), width: many ? 1.1 : 2, ...line },
    hovertemplate: `%{text}<br>${hover}<extra></extra>`,
  }))];
}

// How runs ended that have no rank, in the words of the figures.
function withoutRank(runs) {
  return ["collapsed", "dead"].filter((end) => runs.some((index) => DATA.runs[index].ends.includes(end))).join(" or ");
}

// Where curves stop before their end: × without rank, ○ not finished.
function endTraces(runs) {
  const kinds = [
    [`${withoutRank(runs)}: no rank from there on`, "x", (run) => !HAS_RANK(run)],
    ["not finished (failed, killed, stopped or running)", "circle-open", (run) => HAS_RANK(run) && !IS_WHOLE(run)],
  ];
  return kinds.map(([name, symbol, applies]) => {
    const points = runs.filter((index) => applies(DATA.runs[index])).map((index) => {
      const values = curve(index, view.quantity) || [];
      const last = values.findLastIndex((value) => value !== null);
      const epochs = AXES[DATA.runs[index].axis];
      return last < 0 ? [0, 0, index] : [epochs[last], values[last], index];
    });
    return {
      type: "scatter", mode: "markers", name, showlegend: true, x: points.map((p) => p[0]),
      y: points.map((p) => p[1]), text: points.map((p) => runText(DATA.runs[p[2]])),
      marker: { symbol, size: 9, color: "#000", line: { width: 2 } },
      hovertemplate: "%{text}<extra></extra>",
    };
  }).filter((trace) => trace.x.length);
}

// Settings of few values are named in a legend, of many in a colour bar.
function colourKey(levels, trace) {
  const names = levelNames(view.field);
  const title = FIELDS[view.field] ? FIELDS[view.field].words : "";
  if (names.length > MOST_NAMED) return { title: "", traces: [stepsBar(names, plain(title), false)] };
  const traces = levels.map((level) => ({
    type: "scatter", x: [null], y: [null], name: plain(names[level]), legendgroup: String(level),
    ...trace(levelColour(view.field, level)),
  }));
  return { title, traces };
}

function legendBelow(title) {
  return {
    orientation: "h", x: 0, y: 1.02, yanchor: "bottom", xanchor: "left",
    title: { text: title ? `${plain(title)}:  ` : "", side: "left" }, font: { size: 12 },
  };
}

// The range that fits the lines of all panels.
function shared(columns, fromZero = false) {
  const values = columns.flat().filter(isNumber);
  if (!values.length) return undefined;
  const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  const space = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
  return [fromZero ? Math.min(0, low) : low - space, high + space];
}

function drawCurves(runs, all = runs) {
  if (!runs.length) return emptyPlot("No run passes the filter.");
  const key = colourKey(levelsOf(runs), (color) => ({ mode: "lines", line: { color, width: 3 } }));
  const epochs = all.flatMap((index) => AXES[DATA.runs[index].axis].slice(-1));
  const range = runs.length < all.length ? shared(all.map((index) => curve(index, view.quantity) || []), isRank(view.quantity)) : undefined;
  const accuracy = view.accuracy === "test_accuracy" ? "test" : "train";
  const traces = [
    ...key.traces,
    ...lineTraces(runs, (index) => curveOf(index, view.quantity, 1)),
    ...endTraces(runs),
    ...(HAS_ACCURACY ? lineTraces(runs, (index) => curveOf(index, view.accuracy, 100), { yaxis: "y2" }) : []),
  ];
  return {
    traces,
    height: HAS_ACCURACY ? 560 : 400,
    layout: {
      legend: legendBelow(key.title),
      margin: { l: 70, r: 20, t: 60, b: 54 },
      xaxis: epochAxis(epochs, HAS_ACCURACY ? { anchor: "y2" } : {}),
      yaxis: axis(DATA.quantities[view.quantity] || "rank", {
        domain: [HAS_ACCURACY ? 0.37 : 0, 1], range, rangemode: isRank(view.quantity) ? "tozero" : "normal",
      }),
      ...(HAS_ACCURACY ? { yaxis2: axis(`${accuracy} accuracy in %`, { domain: [0, 0.31], range: [0, 102] }) } : {}),
    },
    table: () => linesTable(runs, [view.quantity, view.accuracy].map((name) => [name, (index) => curveOf(index, name, 1)]), "epoch"),
    remark: DATA.stride > 1
      ? `Every ${DATA.stride}th measured epoch and the last are drawn; the records hold all.` : "",
  };
}

// The numbers of lines: quantities as columns or, where lines are means, one below the other.
function linesTable(runs, quantities, place) {
  const fields = FIELDS.map((field) => field.name);
  if (isAveraged()) {
    const rows = quantities.flatMap(([name, seriesOf]) => {
      const { means, single } = meansAndRuns(runs, seriesOf);
      const alone = single.flatMap((index) => {
        const [run, { x, y }] = [DATA.runs[index], seriesOf(index)];
        return x.map((at, i) => [pointText(run), run.id, run.ends, name, at, y[i], null, 1]);
      });
      return [...means.flatMap((mean) => mean.x.map((at, i) =>
        [mean.point, null, "finished", name, at, mean.y[i], mean.n > 1 ? mean.deviation[i] : null, mean.n])), ...alone];
    });
    return { columns: ["point", "run", "ended", "quantity", place, "mean", "sd", "n"], rows };
  }
  const rows = runs.flatMap((index) => {
    const found = quantities.map(([, seriesOf]) => seriesOf(index));
    const [{ x } = { x: [] }] = found.filter(Boolean);
    return x.map((at, i) => [DATA.runs[index].id, ...FIELDS.map((_, f) => levelText(DATA.runs[index], f)), at,
      ...found.map((series) => (series ? series.y[i] : null))]);
  });
  return { columns: ["run", ...fields, place, ...quantities.map(([name]) => name)], rows };
}

// ------------------------------------------------------------------------------- landscape

// The last value in the unit of its axis.
function lastValue(run, name) {
  const value = run.last[name];
  return isNumber(value) && /_accuracy$/.test(name) ? 100 * value : value;
}

function nameOf(name) {
  return DATA.quantities[name] || `${name.replace("_", " ")} in %`;
}

function landscapeCells(runs, name) {
  const cells = new Map();
  for (const index of runs) {
    const run = DATA.runs[index];
    const key = `${run.levels[view.x]},${run.levels[view.y]}`;
    if (!cells.has(key)) cells.set(key, { values: [], gone: 0, without: 0 });
    const cell = cells.get(key);
    const value = lastValue(run, name);
    if (!HAS_RANK(run)) cell.gone += 1;
    else if (isNumber(value)) cell.values.push(value);
    else cell.without += 1;
  }
  return cells;
}

// What differs within a cell; a filter such as lr=0.1 holds it fixed.
function averagedOver() {
  const others = FIELDS.filter((_, i) => i !== view.x && i !== view.y).map((field) => field.words);
  return others.length ? `, of every ${others.join(" and ")} that the filter lets through` : "";
}

// Of an accuracy only the runs count that have a rank.
function drawLandscape(runs, name) {
  if (FIELDS.length < 2) return emptyPlot("A landscape needs two settings that vary.");
  if (view.x === view.y) return emptyPlot("Choose two different settings.");
  const [across, up] = [FIELDS[view.x], FIELDS[view.y]];
  const cells = landscapeCells(runs, name);
  if (across.numbers && up.numbers && cells.size > MOST_NAMED && 2 * cells.size < across.texts.length * up.texts.length) {
    return drawScatteredLandscape(runs, view.x, view.y, name);
  }
  const xs = across.texts.map(plain);
  const ys = up.texts.map(plain);
  const at = (i, j) => cells.get(`${i},${j}`) || { values: [], gone: 0, without: 0 };
  const grid = (give) => ys.map((_, j) => xs.map((_, i) => give(at(i, j))));
  const z = grid((cell) => (cell.values.length ? average(cell.values) : null));
  const gone = grid((cell) => (cell.gone && !cell.values.length ? 0 : null));
  const said = grid((cell) => {
    const n = cell.values.length;
    if (n) return `${shown(average(cell.values))} (sd ${shown(deviation(cell.values))}, n = ${n})` +
      (cell.gone ? `<br>${cell.gone} collapsed or dead, not in the mean` : "");
    if (cell.gone) return `${cell.gone} collapsed or dead: no rank`;
    return cell.without ? "not recorded" : "no run";
  });
  const wide = xs.length <= (HAS_ACCURACY ? 7 : 14);
  const inside = grid((cell) => (cell.values.length
    ? shown(average(cell.values), 3) + (cell.gone ? ` (${cell.gone}×)` : "") : ""));
  const common = { x: xs, y: ys, customdata: said, xgap: 2, ygap: 2, hovertemplate:
    `${plain(across.name)}=%{x} ${plain(up.name)}=%{y}<br>%{customdata}<extra></extra>` };
  const means = z.flat().filter(isNumber);
  const [zmin, zmax] = means.length ? colourLimits(means, name) : [0, 1];
  const traces = [
    {
      type: "heatmap", z: gone, ...common, colorscale: [[0, "#c8c8c8"], [1, "#c8c8c8"]], showscale: false,
      text: grid((cell) => (cell.gone && !cell.values.length ? "× no rank" : "")),
      texttemplate: wide ? "%{text}" : "", textfont: { color: "#000", size: 11 },
    },
    {
      type: "heatmap", z, ...common, colorscale: name === view.accuracy ? "Viridis" : "Cividis", text: inside, zmin, zmax,
      texttemplate: wide ? "%{text}" : "",
      colorbar: { title: { text: axisText(nameOf(name)), side: "right" }, outlinewidth: 0 },
    },
  ];
  const category = { type: "category", showgrid: false, tickfont: { size: 12 } };
  return {
    traces,
    height: Math.min(620, 150 + 46 * Math.max(3, ys.length)),
    layout: {
      xaxis: axis(across.words, { ...category, categoryarray: xs, automargin: true }),
      yaxis: axis(up.words, { ...category, categoryarray: ys, automargin: true }),
    },
    table: () => ({
      columns: [across.name, up.name, name, "sd", "n", "collapsed_or_dead"],
      rows: xs.flatMap((_, i) => ys.map((_, j) => [across.texts[i], up.texts[j], z[j][i],
        z[j][i] === null ? null : deviation(at(i, j).values), at(i, j).values.length, at(i, j).gone])),
    }),
    remark: `A cell is the mean over the runs there${averagedOver()}; blank: no run; ` +
      "grey with ×: every run collapsed or died, no rank; (2×): two did, and are not in the mean.",
  };
}

// -------------------------------------------------------------------------- rank, accuracy

function drawScatter(runs) {
  const placed = runs.filter((index) => isNumber(DATA.runs[index].last[view.quantity]) &&
    isNumber(DATA.runs[index].last[view.accuracy]));
  if (!placed.length) return emptyPlot("No run has a rank and an accuracy.");
  const key = colourKey(levelsOf(placed), (color) => ({ mode: "markers", marker: { color, size: 9 } }));
  const byLevel = new Map();
  for (const index of placed) {
    const level = levelOf(DATA.runs[index], view.field);
    if (!byLevel.has(level)) byLevel.set(level, []);
    byLevel.get(level).push(DATA.runs[index]);
  }
  const traces = [...byLevel.keys()].sort((a, b) => a - b).map((level) => {
    const members = byLevel.get(level);
    const colour = levelColour(view.field, level);
    return {
      type: "scatter", mode: "markers", legendgroup: String(level), showlegend: false, x: members.map((run) => run.last[view.quantity]),
      y: members.map((run) => 100 * run.last[view.accuracy]), text: members.map(runText),
      marker: {
        size: 9, color: colour, line: { width: 1.5, color: colour },
        symbol: members.map((run) => (IS_WHOLE(run) ? "circle" : "circle-open")),
      },
      hovertemplate: "%{text}<br>rank %{x:.4~g}, accuracy %{y:.1f} %<extra></extra>",
    };
  });
  const left = runs.length - placed.length;
  const accuracy = view.accuracy === "test_accuracy" ? "test" : "train";
  return {
    traces: [...key.traces, ...traces],
    height: 420,
    layout: {
      legend: legendBelow(key.title),
      margin: { l: 70, r: 20, t: 50, b: 54 },
      xaxis: axis(DATA.quantities[view.quantity], { rangemode: "tozero" }),
      yaxis: axis(`${accuracy} accuracy in %`),
    },
    table: () => ({
      columns: ["run", "ended", ...FIELDS.map((f) => f.name), view.quantity, view.accuracy],
      rows: placed.map((index) => {
        const run = DATA.runs[index];
        return [run.id, run.ends, ...FIELDS.map((_, f) => levelText(run, f)),
          run.last[view.quantity], run.last[view.accuracy]];
      }),
    }),
    remark: "Last measured epoch of each run; ○: not finished. " +
      (left ? `${left} of ${runs.length} runs have no rank (collapsed, dead or not recorded) and are not drawn.` : ""),
  };
}
