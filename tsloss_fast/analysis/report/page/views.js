/* The views of one step: figures and tables of each run. */
"use strict";

const Views = (() => {
  const { cloudOf, frame, frameAt, h1, namesOf, page, scales, shown, state } = Shown;
  const { $, make, table, title } = Elements;
  const { Place, places } = Places;

  const VIEWS = [
    ["barcode", "Barcode", "One bar for each merge of two groups of tokens, as long as the distance at which they merge. Bars of one length: evenly spread tokens. In the left band: two tokens that nearly coincide. In the right band: a gap between groups.", true],
    ["tree", "Merge tree", "Which tokens merge, and at what distance: read from the left, where every token is alone. The axis fits the step. Thick dark lines: merges that the step before on the slider did not have.", true],
    ["map", "Map", "The tokens in the plane in which they spread most, joined by the shortest tree. A plane cannot keep all distances: the barcode is exact, the map is not.", true],
    ["components", "Groups over distance", "How many groups are left when everything nearer than a distance has merged. A steep fall: all tokens merge at about one distance.", false],
    ["diagram", "Persistence diagram", "Every bar as a point: where it is born and where it dies. Components (circles) are all born at 0; loops (diamonds) later. Far above the diagonal lasts long.", false],
    ["pairs", "Redundant pairs", "Tokens nearer to each other than half of the mean death: two that nearly say the same.", true],
    ["h1", "Loops (H1)", "Rings of tokens around a hole: a bar begins when the ring closes and ends when it is filled.", true],
  ];

  /* Tables beside the figures. */
  const updates = [];
  const nameCell = (names, i) => make("td", {}, `${i}`, ...(Words.known(names, i) ? [" ", make("bdi", {}, names[i])] : []));
  function barRows(run, only) {
    const now = frame(run), names = namesOf(run), middle = Figures.mean(now.deaths);
    return now.deaths.map((death, k) => ({ death, k })).filter(only).map(({ death, k }) => make("tr", {},
      nameCell(names, now.edges[2 * k]), nameCell(names, now.edges[2 * k + 1]),
      make("td", { class: "number" }, Words.number(death)), make("td", { class: "number" }, middle > 0 ? Words.number(death / middle) : "–")));
  }
  const HEAD = [["token"], ["token"], ["distance", "number"], ["of the mean", "number"]];

  function pairs(run, box) {
    const now = frame(run);
    box.replaceChildren();
    if (!now || !now.deaths) { box.append(make("p", { class: "note" }, now ? "The points were not finite." : "Nothing was recorded yet.")); return; }
    if (!now.deaths.length) { box.append(make("p", { class: "note" }, "Fewer than two tokens.")); return; }
    const limit = Figures.SHORT * Figures.mean(now.deaths);
    const rows = barRows(run, ({ death }) => death < limit || death === 0);
    if (rows.length) {
      box.append(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Redundant pairs" }, table(HEAD, rows, Words.plural(rows.length, "pair"))));
      return;
    }
    const name = Words.namer(namesOf(run)), [i, j] = now.edges;
    box.append(make("p", {}, `None. The nearest are ${name.of(i)} and ${name.of(j)}, at ${Words.number(Figures.SHORT * now.deaths[0] / limit)} of the mean.`));
  }

  function cell(run, body, at) {
    const note = make("span", { class: "at" });
    // Where a run was not recorded at the slider's step, it shows its newest record before.
    updates.push(() => { const now = at(); note.textContent = now && now.step !== page.slider[state.index] ? `recorded at step ${now.step}` : ""; });
    return make("figure", {}, make("figcaption", {}, title(run), note), ...body);
  }

  function views() {
    places.slice().filter((place) => place.view).forEach((place) => place.drop());
    updates.length = 0;
    const runs = page.runs.filter((run, k) => shown[k] && cloudOf(run));
    const blocks = VIEWS.map(([kind, heading, says, each]) => {
      const cells = make("div", { class: "cells" });
      const plot = (build) => { const div = make("div", { class: "plot" }); const place = new Place(div, heading, build); place.view = true; return div; };
      if (kind === "components" || kind === "diagram") {
        const entries = () => runs.map((run) => ({ run, frame: frame(run), h1: h1(run) }));
        cells.append(make("figure", {}, plot(() => Figures[kind](entries(), scales().most))));
      } else if (kind === "h1" && !runs.some((run) => cloudOf(run).h1)) {
        [...new Set(runs.map((run) => cloudOf(run).no_h1))].forEach((reason) => cells.append(make("p", {}, reason)));
      } else {
        runs.forEach((run) => cells.append(each_cell(kind, run, plot)));
      }
      const wide = each && runs.length > 1 && !(kind === "h1" && !runs.some((run) => cloudOf(run).h1));
      return make("section", { class: `view${wide ? " wide" : ""}${runs.length > 2 && runs.length !== 4 ? " many" : ""}${runs.length > 2 ? " rows" : ""}`, "data-kind": kind, style: "padding:0" },
        make("h3", {}, heading), make("p", { class: "says" }, kind === "map" ? says + onMap(runs) : says), cells);
    });
    $("views").replaceChildren(...blocks);
    places.forEach((place) => { if (place.view) place.reserve(); });
  }

  function onMap(runs) {
    const drawn = runs.map((run) => cloudOf(run).map).filter(Boolean);
    const named = drawn.some((entry) => entry.tokens.length) ? " Squares are the vocabulary tokens nearest to them." : "";
    const dimensions = new Set(runs.filter((run) => cloudOf(run).map).map((run) => cloudOf(run).features));
    return named + (drawn.length > 1 && dimensions.size === 1 ? " It is one plane for all runs." : "");
  }

  function each_cell(kind, run, plot) {
    const name = () => Words.namer(namesOf(run));
    const cloud = cloudOf(run);
    if (kind === "barcode") {
      const box = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The bars as numbers" });
      const details = make("details", {}, make("summary", {}, "The bars as numbers"), box);
      const fill = () => { if (details.open) { const now = frame(run); box.replaceChildren(...(now && now.deaths ? [table(HEAD, barRows(run, () => true), `Step ${now.step}`)] : [])); } };
      details.addEventListener("toggle", fill);
      updates.push(fill);
      return cell(run, [plot(() => Figures.barcode(run, frame(run), scales().most, name())), details], () => frame(run));
    }
    if (kind === "tree") {
      return cell(run, [plot((width) => Figures.tree(run, frame(run), frame(run, 1), name(), namesOf(run) !== null, width))], () => frame(run));
    }
    if (kind === "map") {
      const shot = () => frameAt(cloud.map, state.index);
      return cell(run, [plot((width) => Figures.map(run, cloud.map, cloud.map ? cloud.map.at[state.index] : -1, frame(run), scales().ranges.get(cloud.features), name(), width))], shot);
    }
    if (kind === "pairs") {
      const box = make("div", {});
      updates.push(() => pairs(run, box));
      return cell(run, [box], () => frame(run));
    }
    if (!cloud.h1) return cell(run, [make("p", {}, cloud.no_h1)], () => null);
    return cell(run, [plot(() => Figures.loops(run, h1(run), [scales().leastH1, scales().mostH1]))], () => h1(run));
  }

  return { updates, views };
})();
