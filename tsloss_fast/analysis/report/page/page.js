/* The page at work: what is shown, the views of a step, the slider, the window and the paper. */

(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent), limits = data.thresholds;
  const state = { index: data.slider.length - 1, cloud: data.clouds.length ? data.clouds[0][0] : 0, timer: null, shown: new Set(data.shown) };
  let views = [], panels = [], tables = [], scale = null;

  /* What a run shows at the slider's step. */
  const cloud = (run) => run.clouds[state.cloud];
  const newest = (series, index = state.index) => (series && index >= 0 && series.at[index] >= 0 ? series.frames[series.at[index]] : null);
  const frame = (run, back = 0) => newest(cloud(run), state.index - back);
  const shot = (run) => newest(cloud(run).map);
  const names = (run) => { const now = shot(run); return now && now.nearest ? now.nearest.map((t) => cloud(run).map.tokens[t]) : null; };
  const inView = () => data.runs.filter((run, k) => state.shown.has(k) && cloud(run));

  /* Scales that hold for every shown run and every step, so that what moves is the prompt. */
  function scales(runs) {
    const h1 = runs.flatMap((run) => (cloud(run).h1 ? cloud(run).h1.frames : [])), planes = {};
    runs.filter((run) => cloud(run).map).forEach((run) => {
      // Runs with as many coordinates share their plane.
      const range = planes[cloud(run).features] = planes[cloud(run).features] || [Infinity, -Infinity, Infinity, -Infinity];
      [...cloud(run).map.frames.map((f) => f.xy), cloud(run).map.places].forEach((flat) => flat.forEach((v, k) => {
        range[2 * (k % 2)] = Math.min(range[2 * (k % 2)], v);
        range[2 * (k % 2) + 1] = Math.max(range[2 * (k % 2) + 1], v);
      }));
    });
    const far = h1.reduce((a, f) => most(f.deaths, a), 0);
    const longest = runs.reduce((a, run) => cloud(run).frames.reduce((b, f) => most(f.deaths || [], b), a), 0) || 1;
    return { longest, any: Math.max(longest, far), h1: [h1.reduce((a, f) => least(f.births, a), Infinity), far], planes };
  }
  /* The one axis of all barcodes and merge trees. */
  function domain() {
    const now = inView().map((run) => frame(run)).filter((f) => f && f.deaths && f.deaths.length);
    if (!$("zoom").checked || !now.length) return [0, 1.05 * scale.longest];
    const low = now.reduce((a, f) => least(f.deaths, a), Infinity), high = now.reduce((a, f) => most(f.deaths, a), 0), pad = 0.06 * (high - low) || 0.06 * high || 1;
    return [Math.max(0, low - pad), high + pad];
  }

  function place(kind, build) {
    const found = new Place(kind, build);
    views.push(found);
    return found.div;
  }
  /* Where a run was not recorded at the slider's step, it shows its newest record before. */
  function caption(run, at) {
    const note = make("span", { class: "note" });
    tables.push(() => { const now = at(run); note.textContent = now && now.step !== data.slider[state.index] ? `recorded at step ${now.step}` : ""; });
    return make("figcaption", {}, title(run), note);
  }
  function barTable(run, only, text) {
    const now = frame(run), known = names(run), middle = mean(now.deaths), cell = (i) => make("td", {}, `${i} `, ...(known && known[i] !== undefined ? [make("bdi", {}, known[i])] : []));
    const lines = now.deaths.map((d, k) => [d, k]).filter(([d]) => only(d, middle)).map(([d, k]) => make(
      "tr", {}, cell(now.edges[2 * k]), cell(now.edges[2 * k + 1]), make("td", {}, number(d)), make("td", {}, middle > 0 ? number(d / middle) : "–")));
    return lines.length && make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": text }, make(
      "table", {}, make("caption", {}, text), make("thead", {}, make("tr", {}, ...["token", "token", "distance", "of the mean"].map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, ...lines)));
  }
  function bars(run) {
    const options = (width) => ({ domain: domain(), limits, width, named: inView().some(names) }), name = () => namer(names(run));
    const numbers = make("details", {}, make("summary", {}, "The bars as numbers"));
    const fill = () => { const now = frame(run); [...numbers.children].slice(1).forEach((old) => old.remove()); if (numbers.open && now && now.deaths) numbers.append(barTable(run, () => true, `Bars at step ${now.step}`) || ""); };
    numbers.addEventListener("toggle", fill);
    tables.push(fill);
    return make("figure", {}, caption(run, frame), make("div", { class: "beside" },
      place("Barcode", (width) => barcode(run, frame(run), name(), options(width))), place("Merge tree", (width) => tree(run, frame(run), name(), options(width), frame(run, 1)))), numbers);
  }
  function pairs(run) {
    const box = make("div", {});
    tables.push(() => {
      const now = frame(run), found = now && now.deaths && barTable(run, (d, middle) => d < limits.short * middle || d === 0, "Pairs that nearly coincide"), name = namer(names(run));
      const none = !now || !now.deaths ? (now ? BROKEN : UNKNOWN) : !now.deaths.length ? "Fewer than two tokens." :
        `None. The nearest are ${name.of(now.edges[0])} and ${name.of(now.edges[1])}, at ${number(now.deaths[0] / mean(now.deaths))} of the mean.`;
      box.replaceChildren(found || make("p", {}, none));
    });
    return make("figure", {}, caption(run, frame), box);
  }

  /* The views of a step: key, heading, what it says to a reader who does not know homology, figures. */
  function build() {
    const runs = inView(), entries = () => runs.map((run) => ({ run, frame: frame(run), h1: newest(cloud(run).h1) })), rings = runs.filter((run) => cloud(run).h1);
    views = [];
    tables = [];
    scale = scales(runs);
    const each = (make1) => runs.map(make1), one = (kind, make1) => [make("figure", {}, place(kind, (width) => make1(entries(), 1.05 * scale.any, width)))];
    const list = [
      ["bars", "Barcode and merge tree", "On the left is one bar for each merge, as long as the distance at which it happens, with the two tokens that meet. On the right is which groups merge there: read it from the left, where every token is alone. Both have one axis. In the left band two tokens nearly coincide; in the right band a gap parts two groups. Thick dark lines are merges that the slider's step before did not have. The grey bar with an arrow never ends, because at last all tokens are one group.", each(bars)],
      ["map", "Map", `These are the tokens in the plane in which they spread most, joined by the shortest tree. A plane cannot keep all distances: the barcode is exact, and the map is not.${runs.some(names) ? " Squares are the vocabulary tokens nearest to them." : ""}${Object.keys(scale.planes).length === 1 && runs.length > 1 ? " It is one plane for all runs." : ""}`,
        each((run) => make("figure", {}, caption(run, shot), place("Map", (width) => plane(run, cloud(run).map, shot(run), frame(run), scale.planes[cloud(run).features], namer(names(run)), width))))],
      ["groups", "Groups over distance", "This counts the groups that are left when everything nearer than a distance has merged. A steep fall says that all tokens merge at about one distance.", one("Groups over distance", groups)],
      ["diagram", "Persistence diagram", "Every bar is a point here: across is the distance where it is born, and up is where it dies. Circles are groups of tokens, which are all born at 0. Diamonds are loops, which are born later. A point far above the diagonal lasts long.", one("Persistence diagram", diagram)],
      ["pairs", "Pairs that nearly coincide", `These tokens are nearer to each other than ${number(limits.short)} of the mean death: the two nearly say the same.`, each(pairs)],
      ["h1", "Loops (H1)", "A loop is a ring of tokens around a hole. Its bar begins where the ring closes and ends where it is filled.", rings.length ? runs.map((run) => make("figure", {}, caption(run, () => newest(cloud(run).h1)), cloud(run).h1 ? place("Loops", (width) => loops(run, newest(cloud(run).h1), scale.h1, width)) : make("p", {}, cloud(run).no_h1)))
        : [...new Set(runs.map((run) => cloud(run).no_h1))].map((reason) => make("p", { class: "note" }, reason))],
    ];
    $("views").replaceChildren(...list.map(([kind, heading, says, cells]) => make("section", { class: "view", "data-kind": kind }, make("h3", {}, heading), make("p", { class: "says" }, says), make("div", { class: "cells" }, ...cells))));
    document.querySelectorAll("#stories [data-cloud]").forEach((box) => { box.hidden = Number(box.dataset.cloud) !== state.cloud; });
  }
  function buildCurves() {
    const all = data.panels[state.cloud] || [], quiet = (data.quiet[state.cloud] || []).map((sentence) => make("p", { class: "note" }, sentence));
    panels = all.map((panel) => new Place(panel.heading, (width) => curve(panel, width)));
    const rates = (panel) => panel.rates.map((r) => ` ${r.text}: ${number(r.value)}`);
    $("panels").replaceChildren(...all.map((panel, k) => make("figure", { class: "panel", "data-curve": panel.name }, make("h3", {}, panel.heading), make("p", { class: "says" }, panel.says, ...(panel.rates.length ? [` Grey lines –${rates(panel).join(";")}.`] : [])), panels[k].div)), ...quiet);
    const lines = all.flatMap((panel) => panel.lines);
    $("legend").replaceChildren(...[...new Map(lines.map((l) => [l.name, l])).values()].map(title));
    $("bands").hidden = !lines.some((l) => l.low);
  }

  const follow = () => panels.forEach((panel) => panel.figure.follow(data.slider[state.index]));
  function redraw() {
    [...views, ...panels].forEach((found) => found.draw());
    follow();
  }
  let asked = 0;
  function show(index) {
    state.index = clamp(index, 0, data.slider.length - 1);
    const step = `step ${data.slider[state.index]}`;
    $("step").value = state.index;
    $("step").setAttribute("aria-valuetext", step);
    $("step-text").textContent = step;
    $("steps-step").textContent = data.slider[state.index];
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(() => { tables.forEach((update) => update()); views.forEach((found) => found.draw()); follow(); });
  }
  function play(on) {
    clearInterval(state.timer);
    state.timer = on ? setInterval(() => (state.index + 1 < data.slider.length ? show(state.index + 1) : play(false)), 700) : null;
    $("play").textContent = on ? "❚❚" : "▶";
    $("play").setAttribute("aria-label", on ? "Stop" : "Play the steps");
  }
  function choose(chosen) {
    state.cloud = chosen;
    build();
    buildCurves();
    panels.forEach((panel) => panel.draw());
    show(state.index);
  }

  $("step").max = data.slider.length - 1;
  $("step").addEventListener("input", () => { play(false); show(Number($("step").value)); });
  $("play").addEventListener("click", () => { if (state.timer === null && state.index === data.slider.length - 1) show(0); play(state.timer === null); });
  $("play").hidden = data.slider.length < 2;
  $("zoom").addEventListener("change", () => show(state.index));
  data.clouds.forEach(([index, name]) => $("cloud").append(make("option", { value: index }, name)));
  $("cloud-label").hidden = data.clouds.length < 2;
  $("cloud").addEventListener("change", () => choose(Number($("cloud").value)));
  data.runs.forEach((run, k) => {
    const button = make("button", { type: "button", "aria-pressed": state.shown.has(k) }, ...title(run).childNodes);
    button.addEventListener("click", () => {
      if (!state.shown.delete(k)) state.shown.add(k);
      else if (!inView().length) { state.shown.add(k); return; }
      button.setAttribute("aria-pressed", state.shown.has(k));
      build();
      show(state.index);
    });
    $("runs").append(button);
  });
  choose(state.cloud);

  /* A link from a table opens the words of its run. */
  const open = () => { const card = location.hash && $(decodeURIComponent(location.hash.slice(1))); if (card) card.open = true; };
  window.addEventListener("hashchange", open);
  open();

  /* All figures are drawn anew for the width there is: of the window, of the paper, and back. */
  let width = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    if (width !== document.documentElement.clientWidth) redraw();
    width = document.documentElement.clientWidth;
  });
  const paper = (on) => { document.documentElement.classList.toggle("printing", on); redraw(); };
  window.addEventListener("beforeprint", () => paper(true));
  window.addEventListener("afterprint", () => paper(false));
})();
