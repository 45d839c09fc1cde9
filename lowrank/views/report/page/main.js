// Puts the page together: head, filter bar, overview of many runs, and the runs' sections.
"use strict";

const SECTIONS = [];

function ends() {
  const counts = new Map();
  for (const run of DATA.runs) counts.set(run.ends, (counts.get(run.ends) || 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]);
}

function head() {
  const single = DATA.runs.length === 1;
  const { name, question, facts } = DATA.about;
  const count = `${DATA.runs.length} runs`;
  const nodes = [element("h1", {}, single ? `Run ${DATA.runs[0].id}` : name || count)];
  if (question) nodes.push(element("p", { class: "question" }, question));
  nodes.push(element("p", { class: "lead" }, single ? headline(DATA.runs[0]) :
    `${name ? `${count}: ` : ""}${ends().map(([end, n]) => `${n} ${end}`).join(", ")}. ${swept()}`));
  nodes.push(element("dl", { class: "about facts" }, ...facts.flatMap(([what, told]) =>
    [element("dt", {}, what), element("dd", {}, told)])));
  nodes.push(element("p", { class: "about" },
    "The rank of a weight matrix W is the number of its singular values σ with σ / ‖W‖ > ε. " +
    "A matrix that has collapsed (shrunk to nothing or not finite) has no rank: it is marked ×, never shown as low rank."));
  for (const note of DATA.notes) nodes.push(element("p", { class: "note" }, note));
  return element("header", {}, ...nodes);
}

function foot() {
  const { command, date, version, reload } = DATA.made;
  return element("footer", {}, `Made by lowrank ${version} on ${date}`, command ? ": " : ".",
    command ? element("code", {}, command) : null, reload ? ` Runs go on: this page loads itself again every ${reload} seconds.` : "");
}

function swept() {
  if (!FIELDS.length) return "No setting differs between them.";
  const told = FIELDS.map((field) => {
    const few = field.texts.length <= 8 ? field.texts.join(", ") : `${field.texts.length} values from ${field.texts[0]} to ${field.texts[field.texts.length - 1]}`;
    return `${field.words} (${few})`;
  });
  return `What varies: ${told.join("; ")}.`;
}

function headline(run) {
  const [primary] = Object.keys(DATA.quantities);
  const parts = [`${run.ends}, ${run.epoch === null ? "no epoch recorded" : `epoch ${run.epoch}${run.epochs === null ? "" : ` of ${run.epochs}`}`}`];
  if (!HAS_RANK(run)) parts.push("no rank");
  else if (isNumber(run.last[primary])) {
    parts.push(`${DATA.quantities[primary]}: ${shown(run.last[primary])}${run.full_rank === null ? "" : ` of ${shown(run.full_rank)}`}`);
  }
  if (isNumber(run.last.test_accuracy)) parts.push(`test accuracy ${percent(run.last.test_accuracy)}`);
  return parts.join(" · ");
}

const beside = (panels) => element("div", { class: panels.length > 1 ? "halves" : "" }, ...panels.map((panel) => panel.node));

const passing = () => DATA.runs.map((_, index) => index).filter((index) => passes(DATA.runs[index]));

function overview() {
  let runs = passing();
  const names = FIELDS.map((field, i) => [i, field.words]);
  const set = (name, panels) => (value) => {
    view[name] = OF_FIELDS.includes(name) ? Number(value) : value;
    for (const panel of panels()) panel.update();
  };
  const faceted = names.filter(([i]) => FIELDS[i].texts.length <= MOST_NAMED);
  const quantities = Object.entries(DATA.quantities);
  const all = () => [curves, ...landscapes, settings, parallel, importance, scatter].filter((panel) => shownPanels.includes(panel));
  const ofLines = () => [curves, ...matrices];
  const mean = element("input", {
    type: "checkbox", onchange: () => { view.mean = mean.checked; for (const panel of ofLines()) panel.update(); },
  });
  mean.checked = view.mean;
  const curves = new Facets({ title: "Rank and accuracy over epochs", name: "curves", draw: drawCurves, runs: () => runs });
  const matrices = matrixPanels(() => runs);
  const landscape = new Panel({
    title: "Landscape of ranks", name: "landscape", draw: () => drawLandscape(runs, view.quantity),
    controls: SWEPT.length > 1 ? [choice("Across", names, view.x, set("x", () => landscapes)), choice("Up", names, view.y, set("y", () => landscapes))] : [],
  });
  const ofAccuracy = new Panel({ title: "Landscape of accuracies", name: "landscape-accuracy", draw: () => drawLandscape(runs, view.accuracy) });
  const landscapes = SWEPT.length > 1 ? [landscape, ...(HAS_ACCURACY ? [ofAccuracy] : [])] : [];
  const scatter = new Panel({ title: "Rank against accuracy", name: "scatter", draw: () => drawScatter(runs) });
  const settings = new Panel({ title: "Rank against each setting", name: "settings", draw: () => drawSettings(runs) });
  const parallel = new Panel({ title: "Settings, accuracy and rank together", name: "parallel", draw: () => drawParallel(runs) });
  const importance = new Panel({ title: "What each setting explains of it", name: "importance", draw: () => drawImportance(runs) });
  const shownPanels = [
    curves, ...landscapes, ...(SWEPT.length ? [settings] : []),
    ...(SWEPT.length > 1 ? [parallel, ...(DATA.runs.length < LEAST_RUNS ? [] : [importance])] : []), ...(HAS_ACCURACY ? [scatter] : []),
  ];
  const table = new RunTable(() => runs);
  const count = element("output", { class: "count" });
  let waiting = null;
  const filter = element("input", {
    type: "search", placeholder: FIELDS.length ? `words, or ${FIELDS[0].name}=${FIELDS[0].texts[0]}` : "words", size: 26,
    title: "Every word must occur in a run's row; name=value, name<value, name>=value and name=from..to compare one column",
    value: view.filter, oninput: () => { view.filter = filter.value; clearTimeout(waiting); waiting = setTimeout(refilter, 150); },
  });
  const refilter = () => {
    runs = passing();
    count.textContent = runs.length === DATA.runs.length ? "" : `${runs.length} of ${DATA.runs.length} runs`;
    for (const part of [table, ...all(), ...matrices]) part.update();
  };
  const bar = element("nav", { class: "controls toolbar", "aria-label": "What is shown" },
    quantities.length > 1 ? choice("Rank", quantities, view.quantity, set("quantity", all)) : null,
    !HAS_ACCURACY ? null : choice("Accuracy", [["test_accuracy", "test"], ["train_accuracy", "train"]], view.accuracy, set("accuracy", all)),
    FIELDS.length ? choice("Colour by", names, view.field, set("field", () => [...ofLines(), ...(HAS_ACCURACY ? [scatter] : [])])) : null,
    faceted.length > 1 ? choice("Panels by", [[NO_FACET, "none"], ...faceted], view.facet, set("facet", ofLines)) : null,
    HAS_SEEDS ? element("label", {}, mean, " mean ± sd over seeds") : null,
    element("label", {}, "Filter ", filter),
    ends().length > 1 ? choice("Ended", [["", "any"], ...ends().map(([end, n]) => [end, `${end} (${n})`])], view.state, (value) => { view.state = value; refilter(); }) : null,
    count);
  return {
    nodes: [bar, curves.node, beside(landscapes), ...shownPanels.slice(1 + landscapes.length).map((panel) => panel.node), beside(matrices),
      element("h2", {}, "Runs"), table.node],
    draw: () => { for (const part of [table, ...shownPanels, ...matrices]) part.update(); },
  };
}

// ------------------------------------------------------------------------------- sections

function openSection(place) {
  const node = document.getElementById(`run-${place}`);
  if (node) node.open = true;
}

// A section is made when it is first opened: twenty of them would take seconds.
function sectionNode(section, place, pair) {
  const run = DATA.runs[section.run];
  const whole = new RunSection(section, pair);
  SECTIONS.push(whole);
  if (pair) whole.peers = SECTIONS;
  const settings = FIELDS.length ? pointText(run) : "";
  const [name, further] = pair && settings ? [settings, section.id] : [section.id, settings];
  const body = element("div", { class: "body" });
  if (DATA.runs.length === 1) {
    return { node: body, open: () => { body.append(...whole.content()); whole.update(); } };
  }
  const node = element("details", { class: "run", id: `run-${place}` },
    element("summary", {}, element("h2", {}, name),
      element("span", {}, [further, headline(run)].filter(Boolean).join(" · "))), body);
  const fill = () => {
    if (!node.open || body.childElementCount) return;
    body.append(...whole.content());
    whole.update();
    if (pair) linkSliders();
  };
  node.addEventListener("toggle", fill);
  return { node, open: () => { node.open = true; fill(); } };
}

// Side by side, both spectra show the same epoch.
function linkSliders() {
  if (SECTIONS.some((section) => !section.spectraPanel)) return;
  const [left, right] = SECTIONS;
  for (const [from, to] of [[left, right], [right, left]]) {
    const alone = from.show;
    if (!alone) continue;
    from.alone = from.alone || alone;
    from.show = (place) => {
      from.alone(place);
      const epoch = from.spectra.epochs[place];
      const nearest = to.spectra.epochs.reduce((best, e, i, all) =>
        (Math.abs(e - epoch) < Math.abs(all[best] - epoch) ? i : best), 0);
      if (to.at !== nearest) (to.alone || to.show)(nearest);
    };
  }
}

function build() {
  const wereOpen = restore();
  const page = document.getElementById("page");
  const many = DATA.runs.length > 1 ? overview() : null;
  const pair = DATA.sections.length === 2;
  const parts = DATA.sections.map((section, place) => sectionNode(section, place, pair));
  const few = DATA.sections.length <= 2;
  page.replaceChildren(head());
  if (many && !pair) page.append(...many.nodes);
  if (many && parts.length) {
    const rest = DATA.runs.length - parts.length;
    page.append(element("h2", {}, pair && !rest ? "Side by side" : "Runs layer by layer"));
    if (rest) page.append(element("p", { class: "about" }, `${parts.length} of ${DATA.runs.length} runs; the table names the command that opens any other.`));
  }
  page.append(element("div", { class: pair ? "pair" : "" }, ...parts.map((part) => part.node)));
  if (many && pair) page.append(...many.nodes);
  page.append(foot());
  if (many) many.draw();
  if (few) for (const part of parts) part.open();
  const asked = location.hash.match(/^#run-(\d+)$/);
  if (asked) openSection(Number(asked[1]));
  DATA.sections.forEach((section, place) => { if (wereOpen.includes(section.id)) openSection(place); });
  if (DATA.made.reload) reloads(DATA.made.reload);
}

build();
