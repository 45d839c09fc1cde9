// What every part of the page uses: the data, elements, colours, numbers and CSV.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);

// Arrays are base64 of little-endian float32. NaN stands for "no value"; plots and CSV take null.
function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length / 4 }, (_, i) => {
    const value = view.getFloat32(4 * i, true);
    return Number.isNaN(value) ? null : Number(value.toPrecision(7));
  });
}

function unpackRows(text, width) {
  const values = unpack(text);
  const count = width ? values.length / width : 0;
  return Array.from({ length: count }, (_, i) => values.slice(i * width, (i + 1) * width));
}

// Makes an element. Strings become text, never markup: what a record says is shown, not run.
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Entries of a list, [value, text] each.
function options(choices) {
  return choices.map(([value, text]) => element("option", { value }, text));
}

// A labelled list of choices.
function choice(label, choices, selected, onchange) {
  const list = element("select", { onchange: () => onchange(list.value) }, ...options(choices));
  list.value = selected;
  return element("label", {}, label + " ", list);
}

// plotly reads tags and entities in its texts; this shows them as they are.
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

// A text for an axis: plain, but for the index of a norm, which stands below the line.
function axisText(text) {
  return plain(text).replace(/‖_(F|2)(?![0-9.])/g, "‖<sub>$1</sub>");
}

const BLUE = "#0072B2";
const VERMILION = "#D55E00";
const OKABE_ITO = [BLUE, VERMILION, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999"];
const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 73, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37],
];

// One of `count` colours of viridis, without its yellow end: too light on white.
function shade(index, count) {
  const place = ((0.92 * index) / Math.max(1, count - 1)) * (VIRIDIS.length - 1);
  const low = Math.floor(place);
  const high = Math.min(low + 1, VIRIDIS.length - 1);
  const mixed = VIRIDIS[low].map((v, i) => Math.round(v + (place - low) * (VIRIDIS[high][i] - v)));
  return `rgb(${mixed.join(",")})`;
}

function translucent(colour, opacity) {
  const numbers = colour.startsWith("#")
    ? [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16))
    : colour.match(/\d+/g);
  return `rgba(${numbers.slice(0, 3).join(",")},${opacity})`;
}

// A colour bar that names up to a dozen of many steps. Layers begin on top, numbers at the bottom.
function stepsBar(names, title, firstOnTop) {
  const count = names.length;
  const height = (i) => (firstOnTop ? count - 1 - i : i);
  const every = Math.ceil(count / 12);
  const named = names.map((_, i) => i).filter((i) => i % every === 0 || i === count - 1);
  if (named.length > 1 && count - 1 - named[named.length - 2] < every / 2 + 1) named.splice(-2, 1);
  const steps = Math.max(1, count - 1);
  return {
    type: "scatter", x: [null], y: [null], mode: "markers", showlegend: false, hoverinfo: "skip",
    marker: {
      color: [0], cmin: 0, cmax: steps, showscale: true,
      colorscale: names.map((_, v) => [v / steps, shade(height(v), count)]),
      colorbar: {
        title: { text: title, side: "right" }, thickness: 14, len: 1, outlinewidth: 0,
        tickvals: named.map(height), ticktext: named.map((i) => plain(shortened(names[i]))),
        tickfont: { size: 11 },
      },
    },
  };
}

// Names of layers differ at their ends as well as at their beginnings: the middle goes.
function shortened(text, most = 28) {
  const half = Math.floor((most - 1) / 2);
  return text.length > most ? `${text.slice(0, half)}…${text.slice(-half)}` : text;
}

function shown(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  const rounded = Number(value.toPrecision(digits));
  return Math.abs(rounded) >= 1e5 || (rounded !== 0 && Math.abs(rounded) < 1e-4)
    ? rounded.toExponential()
    : String(rounded);
}

function percent(value) {
  return value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`;
}

const isNumber = (value) => typeof value === "number";
const scaled = (values, factor) => values.map((v) => (v === null ? null : Number((v * factor).toPrecision(7))));
const average = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;

function deviation(values) {
  if (values.length < 2) return 0;
  const mean = average(values);
  return Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1));
}

// A spreadsheet would compute a text that begins like a formula.
function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (isNumber(value)) return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

function csvText({ columns, rows }) {
  return [columns, ...rows].map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";
}

function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
