// The run table: sorted by a click on a column's head; the filter bar decides which rows it has.
"use strict";

const sorting = { column: null, descending: false };

function tableColumns() {
  const last = (name) => (run) => run.last[name];
  return [
    { name: "run", value: (run) => run.id },
    { name: "ended", value: (run) => run.ends, mark: true },
    ...FIELDS.map((field, i) => ({
      name: field.name, value: (run) => (field.numbers ? field.numbers[run.levels[i]] : levelText(run, i)),
      text: (run) => levelText(run, i), number: Boolean(field.numbers),
    })),
    {
      name: "epoch", value: (run) => run.epoch, number: true,
      text: (run) => (run.epoch === null ? "none" : run.epochs === null ? String(run.epoch) : `${run.epoch}/${run.epochs}`),
    },
    ...Object.keys(DATA.quantities).map((key) => ({
      name: key.replace(/_mean$/, "").replace(/_/g, " "), value: last(key), number: true,
      text: (run) => (HAS_RANK(run) ? shown(run.last[key]) : "no rank"),
    })),
    ...[["train accuracy", "train_accuracy"], ["test accuracy", "test_accuracy"]].map(([name, key]) => ({
      name, value: last(key), number: true, text: (run) => percent(run.last[key]),
    })),
    { name: "layers and spectra", value: (run) => run.named, node: opener },
    { name: "begun (UTC)", value: (run) => run.created, text: (run) => run.created.slice(0, 10) },
  ];
}

const COLUMNS = tableColumns();

// Every word must occur in the row; name=value, name<value, name=from..to compare one column.
function passes(run) {
  if (view.state && run.ends !== view.state) return false;
  const words = view.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const text = `${run.id} ${run.ends} ${pointText(run)} ${run.named}`.toLowerCase();
  return words.every((word) => {
    const [, name, sign, asked] = word.match(/^([\w.]+)(<=|>=|=|<|>)(.+)$/) || [];
    const column = name && COLUMNS.find((each) => each.name.replace(/ /g, "_").toLowerCase() === name);
    if (!column) return text.includes(word);
    return compares(column.value(run), (column.text || column.value)(run), sign, asked);
  });
}

function compares(value, text, sign, asked) {
  const ends = sign === "=" && asked.match(/^(.*?)\.\.(.*)$/);
  if (ends && isNumber(value) && !ends.slice(1).some((end) => Number.isNaN(Number(end)))) {
    return (ends[1] === "" || value >= Number(ends[1])) && (ends[2] === "" || value <= Number(ends[2]));
  }
  const number = Number(asked);
  if (!isNumber(value) || Number.isNaN(number)) return sign === "=" && String(text).toLowerCase() === asked;
  if (sign === "=") return value === number;
  if (sign === "<") return value < number;
  if (sign === ">") return value > number;
  return sign === "<=" ? value <= number : value >= number;
}

// Runs without a value come last, whichever way one sorts.
function sorted(runs) {
  const column = COLUMNS[sorting.column];
  if (!column) return runs;
  const values = new Map(runs.map((index) => [index, column.value(DATA.runs[index])]));
  const absent = (value) => value === null || value === undefined;
  return runs.slice().sort((a, b) => {
    const [u, v] = [values.get(a), values.get(b)];
    if (absent(u) || absent(v)) return absent(u) - absent(v);
    const order = isNumber(u) ? u - v : String(u).localeCompare(String(v), "en", { numeric: true });
    return sorting.descending ? -order : order;
  });
}

function opener(index) {
  const place = DATA.sections.findIndex((section) => section.run === index);
  if (place < 0) return element("code", {}, `lowrank report ${DATA.runs[index].named}`);
  return element("a", { href: `#run-${place}`, onclick: () => openSection(place) }, "spectra below");
}

function cellClass(column) {
  return column.node ? "opener" : column.number ? "number" : null;
}

function tableRow(index) {
  const run = DATA.runs[index];
  const cells = COLUMNS.map((column) => element("td", { class: cellClass(column) },
    column.node ? column.node(index) : String((column.text || column.value)(run))));
  const kind = !HAS_RANK(run) ? "gone" : IS_WHOLE(run) ? null : "unfinished";
  return element("tr", { class: kind, "data-run": run.id }, ...cells);
}

function tableHead(redraw) {
  const heads = COLUMNS.map((column, i) => {
    const active = sorting.column === i;
    const arrow = active ? (sorting.descending ? " ▼" : " ▲") : "";
    const button = element("button", {
      type: "button", title: `Sort by ${column.name}`,
      onclick: () => {
        sorting.descending = active ? !sorting.descending : false;
        sorting.column = i;
        redraw();
      },
    }, column.name.replace(/ = /, "\u00a0=\u00a0") + arrow);
    const order = active ? (sorting.descending ? "descending" : "ascending") : "none";
    return element("th", { scope: "col", "aria-sort": order, class: cellClass(column) }, button);
  });
  return element("tr", {}, ...heads);
}

function tableCsv(runs) {
  const columns = COLUMNS.map((column) => (column.node ? "record" : column.name));
  const rows = sorted(runs).map((index) => COLUMNS.map((column) => column.value(DATA.runs[index])));
  return { columns, rows };
}

class RunTable {
  constructor(runs) {
    this.runs = runs;
    this.head = element("thead");
    this.body = element("tbody");
    const csv = element("button", {
      type: "button", class: "csv", onclick: () => download("runs.csv", csvText(tableCsv(this.runs()))),
    }, "CSV");
    this.node = element("div", {}, element("div", { class: "controls" }, csv),
      element("div", { class: "scroll", tabindex: "0" }, element("table", { id: "runs" }, this.head, this.body)));
  }

  update() {
    this.head.replaceChildren(tableHead(() => this.update()));
    this.body.replaceChildren(...sorted(this.runs()).map(tableRow));
  }
}
