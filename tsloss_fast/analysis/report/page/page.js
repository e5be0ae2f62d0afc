/* The page: reads its data, makes a place for every figure, and draws those that can be seen. */
"use strict";

(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const state = { index: page.slider.length - 1, cloud: page.clouds.length ? page.clouds[0][0] : 0, timer: null };
  // The first runs side by side; the others are one press away.
  const SIDE_BY_SIDE = 4, TICK = 700;
  const shown = page.runs.map((_, k) => k < SIDE_BY_SIDE);
  const CONFIG = { displayModeBar: false, showTips: false, doubleClick: "reset" };
  const VIEWS = [
    ["barcode", "Barcode", "One bar for each merge of two groups of tokens, as long as the distance at which they merge. Bars of one length: evenly spread tokens. In the left band: two tokens that nearly coincide. In the right band: a gap between groups.", true],
    ["tree", "Merge tree", "Which tokens merge, and at what distance: read from the left, where every token is alone. The axis fits the step. Thick dark lines: merges that the step before on the slider did not have.", true],
    ["map", "Map", "The tokens in the plane in which they spread most, joined by the shortest tree. A plane cannot keep all distances: the barcode is exact, the map is not.", true],
    ["components", "Groups over distance", "How many groups are left when everything nearer than a distance has merged. A steep fall: all tokens merge at about one distance.", false],
    ["diagram", "Persistence diagram", "Every bar as a point: where it is born and where it dies. Components (circles) are all born at 0; loops (diamonds) later. Far above the diagonal lasts long.", false],
    ["pairs", "Redundant pairs", "Tokens nearer to each other than half of the mean death: two that nearly say the same.", true],
    ["h1", "Loops (H1)", "Rings of tokens around a hole: a bar begins when the ring closes and ends when it is filled.", true],
  ];
  const CURVES = [
    ["accuracy", "Accuracy", "Of held-out items.", "measured", true],
    ["ce", "Cross-entropy, held-out", "Nats per answer; lower is better.", "measured", true],
    ["train_ce", "Cross-entropy, training", "Of each training batch.", "measured", true],
    ["mean_lifetime", "Mean death", "Mean distance at which groups merge: how spread out the prompt is.", "curves", true],
    ["coefficient_of_variation", "Coefficient of variation", "Spread of the bars over their mean; 0: all of one length.", "curves", true],
    ["entropy_gap", "Entropy gap", "ln(bars) − entropy of the bars; 0: all of one length.", "curves", true],
    ["redundancy", "Redundancy", `How far short bars are below ${Figures.below(page.runs.map((run) => run.rho))}; 0: none is.`, "curves", true],
    ["total_persistence", "Total persistence", "Sum of the bars: the length of the shortest tree through all tokens.", "curves", true],
    ["bottleneck_first", "Distance to the first barcode", "Bottleneck distance: the most that any bar had to change since the first record.", "curves", true],
    ["bottleneck_previous", "Distance to the barcode before", "The same since the record before; near 0: the barcode is stable.", "curves", true],
    ["displacement_first", "Displacement since the start", "Mean distance that a token has moved since the first record.", "curves", true],
    ["displacement_previous", "Displacement since the record before", "Mean distance that a token has moved in one interval.", "curves", true],
    ["changed", "Changed merges", "Edges of the tree that the record before did not have.", "curves", true],
    ["loops", "Loops", "Bars of dimension 1.", "loops", true],
  ];

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    Object.entries(attributes || {}).forEach(([name, value]) => element.setAttribute(name, value));
    // Strings become text nodes: nothing of the data is ever read as markup.
    element.append(...children);
    return element;
  }

  function stroke(run) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), line = document.createElementNS(svg.namespaceURI, "line");
    const dashes = { dash: "6 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "10 4" };
    svg.setAttribute("class", "stroke");
    svg.setAttribute("aria-hidden", "true");
    Object.entries({ x1: 1, x2: 25, y1: 5, y2: 5, stroke: run.colour, "stroke-width": 3, "stroke-dasharray": dashes[run.dash] || "none" })
      .forEach(([name, value]) => line.setAttribute(name, value));
    svg.append(line);
    return svg;
  }
  const title = (run) => make("span", { class: "name" }, stroke(run), make("bdi", {}, run.name));

  /* What a run shows at the slider's step. */
  const cloudOf = (run) => run.clouds[state.cloud];
  const frameAt = (series, index) => (series && index >= 0 && series.at[index] >= 0 ? series.frames[series.at[index]] : null);
  const frame = (run, back) => frameAt(cloudOf(run), state.index - (back || 0));
  const h1 = (run) => { const cloud = cloudOf(run); return cloud && cloud.h1 ? frameAt(cloud.h1, state.index) : null; };
  function namesOf(run) {
    const cloud = cloudOf(run), shot = cloud && frameAt(cloud.map, state.index);
    return shot && shot.nearest ? shot.nearest.map((t) => cloud.map.tokens[t]) : null;
  }

  /* Scales that hold for all runs and steps of a cloud, so that what moves is the prompt. */
  const cached = new Map();
  function scales() {
    if (cached.has(state.cloud)) return cached.get(state.cloud);
    const found = { most: 0, mostH1: 0, leastH1: Infinity, ranges: new Map() };
    page.runs.forEach((run) => {
      const cloud = cloudOf(run);
      if (!cloud) return;
      const longest = (frames) => frames.reduce((best, f) => (f.deaths || []).reduce((a, b) => Math.max(a, b), best), 0);
      found.most = Math.max(found.most, longest(cloud.frames));
      if (cloud.h1) {
        found.mostH1 = Math.max(found.mostH1, longest(cloud.h1.frames));
        found.leastH1 = cloud.h1.frames.flatMap((f) => f.births).reduce((a, b) => Math.min(a, b), found.leastH1);
      }
      if (!cloud.map) return;
      // Runs of as many coordinates lie in one plane.
      const range = found.ranges.get(cloud.features) || { x0: Infinity, x1: -Infinity, y0: Infinity, y1: -Infinity };
      const widen = (places) => places.forEach((v, k) => {
        const [low, high] = k % 2 ? ["y0", "y1"] : ["x0", "x1"];
        range[low] = Math.min(range[low], v); range[high] = Math.max(range[high], v);
      });
      cloud.map.frames.forEach((f) => widen(f.xy));
      widen(cloud.map.places);
      found.ranges.set(cloud.features, range);
    });
    found.most = Math.max(found.most, found.mostH1);
    cached.set(state.cloud, found);
    return found;
  }

  /* A place for a figure. It is drawn when it can be seen and something has changed since. */
  const places = [];
  const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => {
    const place = places.find((p) => p.plot === entry.target);
    if (!place) return;
    place.seen = entry.isIntersecting;
    place.draw();
  }), { rootMargin: "200px" });

  class Place {
    constructor(plot, kind, build, move) {
      Object.assign(this, { plot, kind, build, move, seen: false, dirty: true, moved: false });
      plot.setAttribute("role", "img");
      places.push(this);
      watcher.observe(plot);
    }
    draw(force) {
      if (!(this.seen || force) || !this.plot.clientWidth) return;
      if (this.dirty) {
        const figure = this.build(this.plot.clientWidth);
        const printing = document.documentElement.classList.contains("printing");
        // Four rows of curves fit on a sheet.
        const height = figure.layout.height * (printing && this.panel ? 0.8 : 1);
        Plotly.react(this.plot, figure.data, { ...figure.layout, width: this.plot.clientWidth, height }, CONFIG);
        this.plot.style.minHeight = `${height}px`;
        this.plot.setAttribute("aria-label", `${this.kind}. ${figure.label}`);
      } else if (this.moved && this.move) {
        this.move(this.plot);
      }
      this.dirty = this.moved = false;
    }
    /* Room before it is drawn, so that nothing jumps when it is. */
    reserve() {
      if (this.plot.clientWidth) this.plot.style.minHeight = `${this.build(this.plot.clientWidth).layout.height}px`;
    }
    drop() { watcher.unobserve(this.plot); Plotly.purge(this.plot); places.splice(places.indexOf(this), 1); }
  }
  let asked = false;
  function redraw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; places.slice().forEach((place) => place.draw()); });
  }
  const spoil = () => { places.forEach((place) => { place.dirty = true; }); redraw(); };

  /* Tables beside the figures. */
  const updates = [];
  const nameCell = (names, i) => make("td", {}, `${i}`, ...(Figures.known(names, i) ? [" ", make("bdi", {}, names[i])] : []));
  function table(head, rows, caption) {
    return make("table", {}, make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...head.map(([text, kind]) => make("th", { scope: "col", class: kind || "" }, text)))),
      make("tbody", {}, ...rows));
  }
  function barRows(run, only) {
    const now = frame(run), names = namesOf(run), middle = Figures.mean(now.deaths);
    return now.deaths.map((death, k) => ({ death, k })).filter(only).map(({ death, k }) => make("tr", {},
      nameCell(names, now.edges[2 * k]), nameCell(names, now.edges[2 * k + 1]),
      make("td", { class: "number" }, Figures.number(death)), make("td", { class: "number" }, middle > 0 ? Figures.number(death / middle) : "–")));
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
      box.append(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Redundant pairs" }, table(HEAD, rows, Figures.plural(rows.length, "pair"))));
      return;
    }
    const name = Figures.namer(namesOf(run)), [i, j] = now.edges;
    box.append(make("p", {}, `None. The nearest are ${name.of(i)} and ${name.of(j)}, at ${Figures.number(Figures.SHORT * now.deaths[0] / limit)} of the mean.`));
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
    const name = () => Figures.namer(namesOf(run));
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

  function series(name, from) {
    return page.runs.map((run) => {
      const cloud = cloudOf(run);
      if (from === "measured") return { run, ...(run.measured[name] || {}) };
      if (!cloud) return { run };
      return { run, ...((from === "loops" ? cloud.loops : cloud.curves[name]) || {}) };
    }).filter((s) => s.values && s.values.some((v) => v !== null));
  }

  /* Rates of the untuned model, of the first run that has them: runs that are compared share them. */
  function references() {
    const run = page.runs.find((each) => each.rates.majority_rate !== undefined);
    if (!run) return [];
    const rates = [{ value: run.rates.majority_rate, text: "most frequent answer", dash: "dot" }];
    const told = run.rates.zero_shot_restricted_accuracy;
    if (told !== undefined) rates.push({ value: told, text: "told the answers", dash: "dashdot" });
    return rates;
  }

  function panels() {
    places.slice().filter((place) => place.panel).forEach((place) => place.drop());
    const blocks = [];
    CURVES.forEach(([name, heading, says, from, zero]) => {
      const found = series(name, from);
      if (!found.length) return;
      const rates = name === "accuracy" ? references() : [];
      const lines = rates.length ? ` Untuned: ${rates.map((r) => `${r.text} ${Figures.number(r.value)} (${r.dash === "dot" ? "dotted" : "dash-dotted"})`).join(", ")}.` : "";
      const plot = make("div", { class: "plot" });
      const step = () => page.slider[state.index];
      const place = new Place(plot, heading, () => Figures.curve(found, step(), zero, rates),
        (div) => Plotly.relayout(div, { "shapes[0].x0": step(), "shapes[0].x1": step() }));
      place.panel = true;
      blocks.push(make("div", { class: "panel", "data-curve": name }, make("h3", {}, heading), make("p", { class: "says" }, says + lines), plot));
    });
    $("panels").replaceChildren(...blocks);
    places.forEach((place) => { if (place.panel) place.reserve(); });
  }

  function show(index) {
    state.index = Math.max(0, Math.min(page.slider.length - 1, index));
    const step = page.slider[state.index];
    $("step").value = state.index;
    $("step").setAttribute("aria-valuetext", `step ${step}`);
    $("step-text").textContent = `step ${step}`;
    $("steps-step").textContent = step;
    places.forEach((place) => { place[place.view ? "dirty" : "moved"] = true; });
    updates.forEach((update) => update());
    redraw();
  }

  function play(on) {
    clearInterval(state.timer);
    state.timer = on ? setInterval(() => { if (state.index + 1 >= page.slider.length) play(false); else show(state.index + 1); }, TICK) : null;
    $("play").textContent = on ? "❚❚" : "▶";
    $("play").setAttribute("aria-label", on ? "Stop" : "Play the steps");
  }

  function choose(cloud) {
    state.cloud = cloud;
    document.querySelectorAll("#summary [data-cloud]").forEach((box) => { box.hidden = Number(box.dataset.cloud) !== cloud; });
    views();
    panels();
    show(state.index);
  }

  /* Wiring. */
  $("step").max = page.slider.length - 1;
  $("step").addEventListener("input", () => { play(false); show(Number($("step").value)); });
  $("play").addEventListener("click", () => {
    if (state.timer === null && state.index === page.slider.length - 1) show(0);
    play(state.timer === null);
  });
  $("play").hidden = page.slider.length < 2;
  page.clouds.forEach(([cloud, name]) => $("cloud").append(make("option", { value: cloud }, name)));
  $("cloud-label").hidden = page.clouds.length < 2;
  $("cloud").addEventListener("change", () => choose(Number($("cloud").value)));
  if (page.runs.length > 1) {
    page.runs.forEach((run, k) => {
      const button = make("button", { type: "button", "aria-pressed": shown[k] }, ...title(run).childNodes);
      button.addEventListener("click", () => {
        if (shown[k] && shown.filter(Boolean).length === 1) return;
        shown[k] = !shown[k];
        button.setAttribute("aria-pressed", shown[k]);
        views();
        show(state.index);
      });
      $("runs").append(button);
    });
  }
  page.runs.forEach((run) => $("legend").append(title(run)));
  ["controls", "steps", "curves"].forEach((id) => { $(id).hidden = false; });
  choose(state.cloud);

  /* All figures at the width there is now: on the window's change, on paper, and back. */
  let width = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    if (width === document.documentElement.clientWidth) return;
    width = document.documentElement.clientWidth;
    spoil();
  });
  function paper(on) {
    document.documentElement.classList.toggle("printing", on);
    places.forEach((place) => { place.dirty = true; });
    document.querySelectorAll("details.story").forEach((story) => { if (on) story.dataset.open = story.open ? "1" : ""; story.open = on || story.dataset.open === "1"; });
    if (on) places.slice().forEach((place) => place.draw(true));
    else redraw();
  }
  window.addEventListener("beforeprint", () => paper(true));
  window.addEventListener("afterprint", () => paper(false));
})();
