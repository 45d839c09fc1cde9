// Single matrices of many runs: their spectra, and the ratios of their norms over some epochs.
"use strict";

const MATRICES = DATA.matrices;
const MATRIX_AXES = MATRICES ? MATRICES.axes.map(unpack) : [];
const INDICES = MATRICES ? Object.fromEntries(Object.entries(MATRICES.indices).map(([k, packed]) => [k, unpack(packed)])) : {};
const OF_MATRICES = MATRICES ? Object.values(MATRICES.runs) : [];
const HAS_SPECTRA = OF_MATRICES.some((of) => of.spectra.some(Boolean));
const HAS_RATIOS = MATRIX_AXES.some((axis) => axis.length);
const MEAN_OF_LAYERS = -1;
const DASHED = { width: 1.5, dash: "dash" };

Object.assign(view, { layer: MATRICES ? MATRICES.usual : 0, ratioOf: MEAN_OF_LAYERS });

function spectrumOf(index) {
  const found = MATRICES.runs[index] && MATRICES.runs[index].spectra[view.layer];
  return found ? { x: INDICES[found[0]], y: unpack(found[1]) } : null;
}

function ratiosOf(index) {
  const of = MATRICES.runs[index];
  if (!of) return null;
  const x = MATRIX_AXES[of.axis];
  const y = view.ratioOf === MEAN_OF_LAYERS ? unpack(of.mean) : unpackRows(of.ratios, x.length)[view.ratioOf];
  return y && y.some(isNumber) ? { x, y } : null;
}

function decayOf(index) {
  const of = MATRICES.runs[index];
  return of && ratiosOf(index) ? { x: MATRIX_AXES[of.axis], y: unpack(of.decay) } : null;
}

// Which runs are in the page, where not all are.
function keptRuns() {
  const kept = OF_MATRICES.length;
  return kept < MATRICES.able ? `${kept} of ${MATRICES.able} runs that have a rank, one of every point before a second of any. ` : "";
}

function drawMatrixLines(runs, all, seriesOf, { quantity, place, xaxis, yaxis, remark, more = () => [], layout = {}, least = -Infinity }) {
  const placed = runs.filter(seriesOf);
  if (!placed.length) return emptyPlot("No run that passes the filter has such a matrix here.");
  const key = colourKey(levelsOf(placed), (color) => ({ mode: "lines", line: { color, width: 3 } }));
  return {
    traces: [...key.traces, ...lineTraces(placed, seriesOf, { least, hover: `${place} %{x}: %{y:.4~g}` }), ...more(placed)],
    height: 400,
    layout: { legend: legendBelow(key.title), margin: { l: 70, r: 20, t: 60, b: 54 }, xaxis: xaxis(all.filter(seriesOf)), yaxis, ...layout },
    table: () => linesTable(placed, [[quantity, seriesOf]], place),
    remark,
  };
}

function drawSpectraOfRuns(runs, all) {
  const { epsilons, norm } = MATRICES;
  const values = OF_MATRICES.flatMap((of) => (of.spectra[view.layer] ? unpack(of.spectra[view.layer][1]) : []));
  const [low, high] = [Math.min(...values.filter((v) => v > 0)), Math.max(...values)];
  const least = Math.max(low / 1.5, Math.min(...epsilons) / 100);
  return drawMatrixLines(runs, all, spectrumOf, {
    quantity: "sigma_over_norm", place: "index", least,
    xaxis: (placed) => axis("index of the singular value", { range: [0, 1.12 * Math.max(...placed.map((index) => spectrumOf(index).x.at(-1)))] }),
    yaxis: axis(`σ / ${norm}`, logAxis(least, 1.5 * Math.max(high, ...epsilons))),
    layout: dashedLines(epsilons),
    remark: `${keptRuns()}Last measured epoch of each. What lies above a dashed line counts in the rank at that ε.`,
  });
}

function drawRatios(runs, all) {
  const { every } = MATRICES;
  const decay = (placed) => {
    const lines = lineTraces(placed.filter((index) => decayOf(index).y.some(isNumber)), decayOf, { band: false, line: DASHED, hover: "pure decay, epoch %{x}: %{y:.5~g}" });
    return lines.length ? [...lines, { type: "scatter", x: [null], y: [null], mode: "lines", name: "pure decay Π(1 − μ·wd)", line: { color: "#555", ...DASHED } }] : [];
  };
  return drawMatrixLines(runs, all, ratiosOf, {
    quantity: "norm_ratio", place: "epoch", more: decay,
    xaxis: (placed) => epochAxis(placed.flatMap((index) => ratiosOf(index).x)),
    yaxis: axis(`‖W‖ / ‖W‖ of ${every} epoch${every > 1 ? "s" : ""} before`, runs.length < all.length ? { range: shared(all.map((index) => (ratiosOf(index) || { y: [] }).y)) } : {}),
    remark: `${keptRuns()}Dashed: what weight decay alone would leave, where that is known (SGD without momentum, AdamW).`,
  });
}

function matrixPanels(shownRuns) {
  if (!MATRICES) return [];
  const layers = MATRICES.layers.map((name, i) => [i, name]);
  const panel = (options, name, choices) => {
    const made = new Facets({
      ...options, runs: shownRuns,
      controls: [choice("Layer", choices, view[name], (value) => { view[name] = Number(value); made.update(); })],
    });
    return made;
  };
  return [
    HAS_SPECTRA ? panel({ title: "Spectrum of a layer", name: "spectra-of-runs", draw: drawSpectraOfRuns }, "layer", layers) : null,
    HAS_RATIOS ? panel({ title: `Norms over those ${MATRICES.every} epochs before`, name: "ratios", draw: drawRatios },
      "ratioOf", [[MEAN_OF_LAYERS, "mean of hidden layers"], ...layers]) : null,
  ].filter(Boolean);
}
