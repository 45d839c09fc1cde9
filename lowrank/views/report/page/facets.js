// A panel for each value of a second setting, on the same axes; without one, a single panel.
"use strict";

const NO_FACET = -1;
view.facet = NO_FACET;

// The runs of each panel with the value in its title.
function facetsOf(runs) {
  if (!FIELDS[view.facet]) return [["", runs]];
  const levels = [...new Set(runs.map((index) => levelOf(DATA.runs[index], view.facet)))].sort((a, b) => a - b);
  return levels.map((level) => [
    `${FIELDS[view.facet].words} ${FIELDS[view.facet].texts[level]}`,
    runs.filter((index) => levelOf(DATA.runs[index], view.facet) === level),
  ]);
}

// Has what a Panel has; draw(runs, all) draws some runs on axes that fit all.
class Facets {
  constructor({ title, name, controls = [], draw, runs }) {
    Object.assign(this, { title, name, controls, draw, runs });
    this.node = element("div", { class: "facets" });
    this.panels = [];
  }

  update() {
    const all = this.runs();
    this.found = facetsOf(all);
    const titles = this.found.map(([told]) => told);
    if (!this.panels.length || titles.join("\n") !== this.titles) {
      this.titles = titles.join("\n");
      for (const panel of this.panels) panel.dispose();
      this.panels = titles.map((told, i) => new Panel({
        title: told ? `${this.title}: ${told}` : this.title, name: i ? `${this.name}-${i + 1}` : this.name,
        controls: i ? [] : this.controls, draw: () => this.draw(this.found[i][1], this.runs()),
      }));
      this.node.replaceChildren(...this.panels.map((panel) => panel.node));
      this.node.classList.toggle("halves", titles.length > 1);
    }
    for (const panel of this.panels) panel.update();
  }
}
