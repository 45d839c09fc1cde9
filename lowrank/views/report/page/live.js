// A page that is written again while runs go on loads itself again, and keeps what was chosen.
"use strict";

const KEPT = `lowrank ${location.pathname}`;
const OF_FIELDS = ["field", "x", "y", "facet"];
const BUSY_MS = 5000;

function keep() {
  const kept = { ...view, open: SECTIONS.filter((section) => section.panels.length).map((section) => section.section.id) };
  for (const name of OF_FIELDS) kept[name] = FIELDS[view[name]] ? FIELDS[view[name]].name : null;
  sessionStorage.setItem(KEPT, JSON.stringify(kept));
}

// What was chosen, as far as the new page has it; the ids of the sections that were open.
function restore() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) || "{}");
  sessionStorage.removeItem(KEPT);
  for (const name of OF_FIELDS) {
    const place = FIELDS.findIndex((field) => field.name === kept[name]);
    if (place >= 0) view[name] = place;
  }
  if (kept.quantity in DATA.quantities) view.quantity = kept.quantity;
  if (ends().some(([end]) => end === kept.state)) view.state = kept.state;
  for (const name of ["accuracy", "mean", "filter"]) if (name in kept) view[name] = kept[name];
  for (const name of ["layer", "ratioOf"]) if (MATRICES && kept[name] < MATRICES.layers.length) view[name] = kept[name];
  return kept.open || [];
}

function reloads(seconds) {
  let touched = 0;
  for (const event of ["pointerdown", "keydown", "wheel"]) addEventListener(event, () => { touched = Date.now(); });
  setInterval(() => {
    if (document.hidden || Date.now() - touched < BUSY_MS) return;
    keep();
    location.reload();
  }, 1000 * seconds);
}
