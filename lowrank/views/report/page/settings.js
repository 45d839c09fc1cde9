// Values at the last epoch against settings: scatter for numbers drawn at random, and all at once.
"use strict";

const SWEPT = FIELDS.map((_, i) => i).filter((i) => FIELDS[i].name !== "seed");
const GONE = "collapsed or dead: no rank";
const SHADES = 12;

// Numbers belong on a logarithmic axis where the largest is 20 times the least and half of them
// are in the lowest quarter.
function spreadByFactors(numbers) {
  const sorted = numbers.slice().sort((a, b) => a - b);
  const [low, high] = [sorted[0], sorted[sorted.length - 1]];
  const middle = sorted[Math.floor(sorted.length / 2)];
  return sorted.length > 1 && low > 0 && high >= 20 * low && middle <= low + 0.25 * (high - low);
}

// An axis of a setting: of numbers, logarithmic where they ask for it, or of its values as texts.
function settingAxis(field, more = {}) {
  const { words, numbers, texts } = FIELDS[field];
  if (numbers) {
    const scale = spreadByFactors(numbers) ? settingScale(numbers) : { nticks: 6 };
    return axis(words, { ...scale, automargin: true, ...more });
  }
  return axis(words, { type: "category", categoryarray: texts.map(plain), automargin: true, ...more });
}

// Ticks at the values themselves where they are few.
function settingScale(numbers) {
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const space = (high / low) ** 0.06;
  return logAxis(low / space, high * space, numbers.length <= 5 ? numbers : logTicks(low, high, 5));
}

function settingValue(run, field) {
  const { numbers, texts } = FIELDS[field];
  return numbers ? numbers[run.levels[field]] : plain(texts[run.levels[field]]);
}

// Colours from dark to light over at least a quarter of what there is: noise is no contrast.
function colourLimits(values, name = view.quantity) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const least = 0.25 * Math.max(...DATA.runs.map((run) => (isRank(name) && run.full_rank) || 0), isRank(name) ? Math.abs(high) : 0);
  return high - low >= least && high > low ? [low, high] : [Math.min(low, high - (least || 1)), high];
}

function isRank(name) {
  return name in DATA.quantities && !(name in DATA.metrics);
}

function lastRows(runs) {
  return {
    columns: ["run", "ended", ...FIELDS.map((f) => f.name), view.quantity, view.accuracy],
    rows: runs.map((index) => {
      const run = DATA.runs[index];
      return [run.id, run.ends, ...FIELDS.map((_, f) => levelText(run, f)), run.last[view.quantity], run.last[view.accuracy]];
    }),
  };
}

// Two settings of numbers that form no grid: each run is a point.
function drawScatteredLandscape(runs, x, y, name) {
  const placed = runs.filter((index) => HAS_RANK(DATA.runs[index]) && isNumber(lastValue(DATA.runs[index], name)));
  const gone = runs.filter((index) => !HAS_RANK(DATA.runs[index]));
  const values = placed.map((index) => lastValue(DATA.runs[index], name));
  const [cmin, cmax] = values.length ? colourLimits(values, name) : [0, 1];
  const of = (members) => ({
    type: "scatter", mode: "markers", x: members.map((index) => settingValue(DATA.runs[index], x)),
    y: members.map((index) => settingValue(DATA.runs[index], y)), text: members.map((index) => runText(DATA.runs[index])),
  });
  const traces = [{
    ...of(placed), customdata: values, showlegend: false,
    marker: {
      size: 12, color: values, cmin, cmax, colorscale: "Cividis", line: { width: 1, color: "#333" }, showscale: true,
      colorbar: { title: { text: axisText(nameOf(name)), side: "right" }, outlinewidth: 0 },
    },
    hovertemplate: "%{text}<br>%{customdata:.4~g}<extra></extra>",
  }];
  if (gone.length) {
    traces.push({ ...of(gone), name: GONE, showlegend: true, marker: { symbol: "x", size: 9, color: "#000" }, hovertemplate: "%{text}<extra></extra>" });
  }
  return {
    traces, height: 460,
    layout: {
      xaxis: settingAxis(x), yaxis: settingAxis(y), margin: { l: 70, r: 20, t: 34, b: 54 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    },
    table: () => lastRows(runs),
    remark: "Last measured epoch of each run: the points form no grid.",
  };
}

// A plot for each setting: the value at the last epoch against it, coloured by accuracy.
function drawSettings(runs) {
  const placed = runs.filter((index) => isNumber(DATA.runs[index].last[view.quantity]));
  const gone = runs.filter((index) => !HAS_RANK(DATA.runs[index]));
  if (!placed.length && !gone.length) return emptyPlot("No run has a value.");
  const columns = Math.min(SWEPT.length, 4);
  const rows = Math.ceil(SWEPT.length / columns);
  const accuracies = placed.map((index) => { const a = DATA.runs[index].last[view.accuracy]; return isNumber(a) ? 100 * a : null; });
  const coloured = accuracies.some(isNumber);
  const traces = [];
  const layout = { margin: { l: 70, r: 20, t: 34, b: 54 }, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" } };
  SWEPT.forEach((field, place) => {
    const [row, column] = [Math.floor(place / columns), place % columns];
    const suffix = place ? String(place + 1) : "";
    const domain = [column / columns + (column ? 0.02 : 0), (column + 1) / columns - (column + 1 < columns ? 0.02 : 0)];
    const upper = 1 - row / rows;
    layout[`xaxis${suffix}`] = settingAxis(field, { domain, anchor: `y${suffix}` });
    layout[`yaxis${suffix}`] = axis(column ? "" : DATA.quantities[view.quantity], {
      domain: [upper - 1 / rows + (rows > 1 ? 0.3 / rows : 0), upper], anchor: `x${suffix}`,
      ...(place ? { matches: "y", showticklabels: !column } : { rangemode: isRank(view.quantity) ? "tozero" : "normal" }),
    });
    const axes = { xaxis: `x${suffix}`, yaxis: `y${suffix}` };
    traces.push({
      type: "scatter", mode: "markers", ...axes, showlegend: false,
      x: placed.map((index) => settingValue(DATA.runs[index], field)), y: placed.map((index) => DATA.runs[index].last[view.quantity]),
      text: placed.map((index) => runText(DATA.runs[index])), hovertemplate: "%{text}<br>%{y:.4~g}<extra></extra>",
      marker: {
        size: 9, color: coloured ? accuracies.map((a) => a ?? 0) : BLUE, line: { width: 1, color: "#333" },
        symbol: placed.map((index) => (IS_WHOLE(DATA.runs[index]) ? "circle" : "circle-open")),
        ...(coloured ? { coloraxis: "coloraxis" } : {}),
      },
    });
    if (gone.length) {
      traces.push({
        type: "scatter", mode: "markers", ...axes, name: GONE, showlegend: !place, marker: { symbol: "x", size: 9, color: "#000" },
        x: gone.map((index) => settingValue(DATA.runs[index], field)), y: gone.map(() => 0),
        text: gone.map((index) => runText(DATA.runs[index])), hovertemplate: "%{text}<extra></extra>",
      });
    }
  });
  if (coloured) {
    const which = view.accuracy === "test_accuracy" ? "test" : "train";
    layout.coloraxis = { colorscale: "Viridis", colorbar: { title: { text: `${which} accuracy in %`, side: "right" }, outlinewidth: 0 } };
  }
  return {
    traces, layout, height: 60 + 300 * rows, table: () => lastRows(runs),
    remark: "Last measured epoch of each run; ○: not finished.",
  };
}

// Six groups of about as many runs for numbers of many values, else one for each value.
const GROUPS = 6;
function groupsOf(runs, field) {
  const levels = runs.map((index) => DATA.runs[index].levels[field]);
  const sorted = levels.slice().sort((a, b) => a - b);
  if (new Set(levels).size <= GROUPS || !FIELDS[field].numbers) return levels;
  return levels.map((level) => Math.floor((GROUPS * sorted.indexOf(level)) / levels.length));
}

// The share of the variance of values that groups explain, corrected for their number.
function explained(values, groups) {
  const of = new Map();
  values.forEach((value, i) => of.set(groups[i], [...(of.get(groups[i]) || []), value]));
  const squares = (some) => { const mean = average(some); return some.reduce((sum, v) => sum + (v - mean) ** 2, 0); };
  const [n, k] = [values.length, of.size];
  if (k < 2 || n <= k) return null;
  const within = [...of.values()].reduce((sum, some) => sum + squares(some), 0);
  return Math.max(0, 1 - (within / (n - k)) / (squares(values) / (n - 1)));
}

const LEAST_RUNS = 8;
function drawImportance(runs) {
  const placed = runs.filter((index) => isNumber(DATA.runs[index].last[view.quantity]));
  const values = placed.map((index) => DATA.runs[index].last[view.quantity]);
  if (placed.length < LEAST_RUNS) return emptyPlot(`Fewer than ${LEAST_RUNS} runs have a value.`);
  if (new Set(values).size < 2) return emptyPlot("All runs have the same value.");
  const found = FIELDS.map((field, i) => [field, explained(values, groupsOf(placed, i))])
    .filter(([, share]) => share !== null).sort((a, b) => a[1] - b[1]);
  if (!found.length) return emptyPlot("Every run has values of its own.");
  return {
    traces: [{
      type: "bar", orientation: "h", y: found.map(([field]) => plain(field.words)), x: found.map(([, share]) => 100 * share),
      text: found.map(([, share]) => `${Math.round(100 * share)} %`), textposition: "outside", cliponaxis: false,
      marker: { color: BLUE }, hovertemplate: "%{y}: %{x:.1f} %<extra></extra>",
    }],
    height: 90 + 34 * found.length,
    layout: {
      margin: { l: 70, r: 50, t: 10, b: 54 }, xaxis: axis("variance explained in %", { range: [0, 100] }),
      yaxis: { ...GRID, type: "category", automargin: true, ticks: "" }, bargap: 0.35,
    },
    table: () => ({ columns: ["setting", "share_of_variance"], rows: found.map(([field, share]) => [field.name, share]).reverse() }),
    remark: `What each setting alone explains of how ${DATA.quantities[view.quantity]} differs between ${placed.length} runs, ` +
      "corrected for the number of its values; what settings do together is in none.",
  };
}

// Parallel coordinates: a line for each run through its settings, its accuracy and its value.
function drawParallel(runs) {
  const placed = runs.filter((index) => isNumber(DATA.runs[index].last[view.quantity]));
  if (!placed.length) return emptyPlot("No run has a value.");
  const ends = [view.accuracy, view.quantity].filter((name) => placed.some((index) => isNumber(DATA.runs[index].last[name])));
  const scales = SWEPT.map((field) => {
    const { words, numbers, texts } = FIELDS[field];
    if (!numbers) return parallelScale(words, texts.map((_, i) => i), (run) => run.levels[field], (i) => texts[i]);
    return parallelScale(words, numbers, (run) => numbers[run.levels[field]], shown, spreadByFactors(numbers));
  });
  for (const name of ends) {
    const factor = name === view.accuracy ? 100 : 1;
    const value = (run) => (isNumber(run.last[name]) ? factor * run.last[name] : null);
    const words = factor === 100 ? `${name.replace("_", " ")} in %` : DATA.quantities[name];
    scales.push(parallelScale(words, placed.map((index) => value(DATA.runs[index])).filter(isNumber), value, (v) => shown(v, 3)));
  }
  const values = placed.map((index) => DATA.runs[index].last[view.quantity]);
  const [cmin, cmax] = colourLimits(values);
  const bin = (value) => Math.min(SHADES - 1, Math.max(0, Math.floor((SHADES * (value - cmin)) / (cmax - cmin))));
  const lines = new Map();
  for (const index of placed) {
    const run = DATA.runs[index];
    const key = bin(run.last[view.quantity]);
    if (!lines.has(key)) lines.set(key, { x: [], y: [], text: [] });
    const line = lines.get(key);
    scales.forEach((scale, place) => { line.x.push(place); line.y.push(scale.at(run)); line.text.push(runText(run)); });
    line.x.push(null); line.y.push(null); line.text.push("");
  }
  const traces = [...lines].sort((a, b) => a[0] - b[0]).map(([key, line]) => ({
    type: "scatter", mode: "lines+markers", ...line, showlegend: false, opacity: 0.8,
    line: { color: shade(key, SHADES), width: 1.5 }, marker: { size: 5, color: shade(key, SHADES) },
    hovertemplate: "%{text}<extra></extra>",
  }));
  const notes = scales.flatMap((scale, place) => [
    { text: axisText(shortened(scale.words, 34)), x: place, y: 1.09, yanchor: "bottom", font: { size: 12 } },
    ...scale.ticks.map(([y, text]) => ({ text: plain(shortened(text, 14)), x: place, y, xanchor: "left", xshift: 5, font: { size: 11 }, bgcolor: "rgba(255,255,255,0.7)" })),
  ]);
  return {
    traces, height: 420,
    layout: {
      margin: { l: 60, r: 90, t: 20, b: 20 },
      xaxis: { visible: false, range: [-0.15, scales.length - 0.6] }, yaxis: { visible: false, range: [-0.08, 1.25] },
      annotations: notes.map((note) => ({ showarrow: false, xref: "x", yref: "y", ...note })),
      shapes: scales.map((_, place) => ({ type: "line", x0: place, x1: place, y0: 0, y1: 1, line: { color: "#666", width: 1 } })),
    },
    table: () => lastRows(placed),
    remark: `A line for each run at its last measured epoch, dark to light by ${DATA.quantities[view.quantity]}; runs without a value are left out.`,
  };
}

function parallelScale(words, numbers, value, written, logarithmic = false) {
  const bent = logarithmic ? Math.log10 : (number) => number;
  const sorted = [...new Set(numbers)].sort((a, b) => a - b);
  const [low, high] = [bent(sorted[0]), bent(sorted[sorted.length - 1])];
  const place = (number) => (high > low ? (bent(number) - low) / (high - low) : 0.5);
  const ticks = sorted.length <= 6 ? sorted : [0, 1, 2, 3].map((i) => sorted[Math.round((i * (sorted.length - 1)) / 3)]);
  const apart = [];
  for (const tick of ticks) if (!apart.length || place(tick) - place(apart[apart.length - 1]) > 0.06) apart.push(tick);
  return {
    words, ticks: apart.map((tick) => [place(tick), written(tick)]),
    at: (run) => { const number = value(run); return isNumber(number) ? place(number) : null; },
  };
}
