/* The page at work: what is shown, the views of a step, the slider, the window and the paper. */

(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent), limits = data.thresholds;
  const shown = new Set(data.shown);
  let index = data.slider.length - 1, chosen = data.clouds.length ? data.clouds[0][0] : 0;
  let timer = null, asked = 0, views = [], panels = [], updates = [], scale = null;

  /* What a run shows at the slider's step: its newest record not after it. */
  const cloud = (run) => run.clouds[chosen];
  const newest = (series, at = index) => (series && series.at[at] >= 0 ? series.frames[series.at[at]] : null);
  const frame = (run) => newest(cloud(run));
  const shot = (run) => newest(cloud(run).map);
  const names = (run) => {
    const nearest = shot(run) && shot(run).nearest;
    return nearest ? nearest.map((token) => cloud(run).map.tokens[token]) : null;
  };
  const inView = () => data.runs.filter((run, k) => shown.has(k) && cloud(run));

  /* Scales that hold for all shown runs and all steps, so that what moves is the prompt. */
  function scales(runs) {
    const all = (frames, of) => frames.flatMap((each) => each[of] || []), planes = {};
    const h1 = runs.flatMap((run) => (cloud(run).h1 ? cloud(run).h1.frames : []));
    const longest = Math.max(0, most(all(runs.flatMap((run) => cloud(run).frames), "deaths"))) || 1;
    // Runs with as many coordinates share their plane.
    Object.entries(Object.groupBy(runs.filter((run) => cloud(run).map), (run) => cloud(run).features))
      .forEach(([features, alike]) => {
        const flat = alike.flatMap((run) => [...all(cloud(run).map.frames, "xy"), ...cloud(run).map.places]);
        const [xs, ys] = [0, 1].map((rest) => flat.filter((_, k) => k % 2 === rest));
        planes[features] = [least(xs), most(xs), least(ys), most(ys)];
      });
    return { longest, planes, loops: [least(all(h1, "births")), most(all(h1, "deaths"))] };
  }
  /* The one axis of all barcodes and merge trees. */
  function domain() {
    const deaths = inView().flatMap((run) => (frame(run) && frame(run).deaths) || []);
    if (!$("zoom").checked || !deaths.length) return [0, 1.05 * scale.longest];
    const low = least(deaths), high = most(deaths), pad = 0.06 * (high - low || high) || 1;
    return [Math.max(0, low - pad), high + pad];
  }

  /* A figure of the page with its run's name; at says which record it shows. */
  function cell(run, at, ...content) {
    const note = make("span", { class: "note" });
    updates.push(() => {
      const now = at(run), other = now && now.step !== data.slider[index];
      note.textContent = other ? `recorded at step ${now.step}` : "";
    });
    return make("figure", {}, make("figcaption", {}, title(run), note), ...content);
  }
  function plot(kind, build) {
    views.push(new Place(kind, build));
    return views[views.length - 1].div;
  }
  /* Bars as numbers: those of which `only` holds, or nothing. */
  function table(run, caption, only) {
    const now = frame(run), known = names(run) || [], middle = mean(now.deaths);
    const token = (i) => make("td", {}, `${i} `, make("bdi", {}, known[i] === undefined ? "" : known[i]));
    const lines = now.deaths.flatMap((death, k) => (only(death, middle) ? [make(
      "tr", {}, ...pair(now.edges, k).map(token), make("td", {}, number(death)),
      make("td", {}, middle > 0 ? number(death / middle) : "–"))] : []));
    const head = ["token", "token", "distance", "of the mean"].map((text) => make("th", { scope: "col" }, text));
    return lines.length ? make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...lines))) : "";
  }
  function barsOf(run) {
    const options = (width) => ({ domain: domain(), limits, width, named: inView().some(names) });
    const box = make("div", {}), details = make("details", {}, make("summary", {}, "The bars as numbers"), box);
    const update = () => box.replaceChildren(details.open && !missing(frame(run))
      ? table(run, `Bars at step ${frame(run).step}`, () => true) : "");
    updates.push(update);
    details.addEventListener("toggle", update);
    return cell(run, frame, make("div", { class: "beside" },
      plot("Barcode", (width) => barcode(run, frame(run), namer(names(run)), options(width))),
      plot("Merge tree", (width) => tree(
        run, frame(run), namer(names(run)), options(width), newest(cloud(run), index - 1)))), details);
  }
  function pairsOf(run) {
    const box = make("div", {});
    updates.push(() => {
      const now = frame(run), name = namer(names(run));
      if (missing(now)) box.replaceChildren(missing(now));
      else if (!now.deaths.length) box.replaceChildren("Fewer than two tokens.");
      else box.replaceChildren(table(run, "Pairs that nearly coincide", (d, middle) => d < limits.short * middle || d === 0)
        || `None. The nearest are ${pair(now.edges, 0).map(name.of).join(" and ")}, at ${number(now.deaths[0] / mean(now.deaths))} of the mean.`);
    });
    return cell(run, frame, box);
  }
  const planeOf = (run) => cell(run, shot, plot("Map", (width) => plane(
    run, cloud(run).map, shot(run), frame(run), scale.planes[cloud(run).features], namer(names(run)), width)));
  const loopsOf = (run) => cell(run, () => newest(cloud(run).h1), cloud(run).h1
    ? plot("Loops", (width) => loops(run, newest(cloud(run).h1), scale.loops, width)) : cloud(run).no_h1);
  const together = (kind, figureOf) => [make("figure", {}, plot(kind, (width) => {
    const entries = inView().filter((run) => !missing(frame(run)))
      .map((run) => ({ run, frame: frame(run), h1: newest(cloud(run).h1) }));
    const longest = 1.05 * Math.max(scale.longest, scale.loops[1]);
    return entries.length ? figureOf(entries, longest, width) : missing(null);
  }))];

  function build() {
    const runs = inView(), reasons = new Set(runs.map((run) => cloud(run).no_h1));
    [views, updates, scale] = [[], [], scales(runs)];
    const cells = {
      bars: () => runs.map(barsOf), map: () => runs.map(planeOf), pairs: () => runs.map(pairsOf),
      groups: () => together("Groups over distance", groups), diagram: () => together("Persistence diagram", diagram),
      loops: () => (runs.some((run) => cloud(run).h1) ? runs.map(loopsOf) : [...reasons]),
    };
    document.querySelectorAll(".view").forEach((view) =>
      view.querySelector(".cells").replaceChildren(...cells[view.dataset.kind]()));
  }
  function buildCurves() {
    const found = data.panels[chosen] || [], lines = found.flatMap((panel) => panel.lines);
    panels = found.map((panel) => new Place(panel.heading, (width) => curve(panel, width)));
    $("panels").replaceChildren(...found.map((panel, k) => {
      const rates = panel.rates.map(({ text, value }) => `${text}: ${number(value)}`).join("; ");
      return make("figure", { class: "panel", "data-curve": panel.name }, make("h3", {}, panel.heading),
        make("p", { class: "says" }, `${panel.says}${rates && ` Grey lines – ${rates}.`}`), panels[k].div);
    }), ...(data.quiet[chosen] || []).map((sentence) => make("p", { class: "note" }, sentence)));
    $("legend").replaceChildren(...Array.from(new Map(lines.map((line) => [line.name, line])).values(), title));
    $("bands").hidden = !lines.some((line) => line.low);
  }

  const follow = () => panels.forEach(({ fig }) => fig.follow(data.slider[index]));
  const redraw = () => {
    [...views, ...panels].forEach((place) => place.draw());
    follow();
  };
  function show(to) {
    index = clamp(to, 0, data.slider.length - 1);
    const step = `step ${data.slider[index]}`;
    $("step").value = index;
    $("step").setAttribute("aria-valuetext", step);
    $("step-text").textContent = step;
    $("steps-step").textContent = data.slider[index];
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(() => {
      [...updates, ...views.map((view) => () => view.draw()), follow].forEach((update) => update());
    });
  }
  function play(on) {
    clearInterval(timer);
    timer = on ? setInterval(() => (index + 1 < data.slider.length ? show(index + 1) : play(false)), 700) : null;
    $("play").textContent = on ? "❚❚" : "▶";
    $("play").setAttribute("aria-label", on ? "Stop" : "Play the steps");
  }
  function choose(to) {
    chosen = to;
    document.querySelectorAll("[data-cloud]").forEach((box) => { box.hidden = Number(box.dataset.cloud) !== to; });
    build();
    buildCurves();
    panels.forEach((panel) => panel.draw());
    show(index);
  }

  $("step").max = data.slider.length - 1;
  $("step").addEventListener("input", () => {
    play(false);
    show(Number($("step").value));
  });
  $("play").hidden = data.slider.length < 2;
  $("play").addEventListener("click", () => {
    if (timer === null && index === data.slider.length - 1) show(0);
    play(timer === null);
  });
  $("zoom").addEventListener("change", () => show(index));
  $("cloud").append(...data.clouds.map(([value, name]) => make("option", { value }, name)));
  $("cloud-label").hidden = data.clouds.length < 2;
  $("cloud").addEventListener("change", () => choose(Number($("cloud").value)));
  $("runs").append(...data.runs.map((run, k) => {
    const button = make("button", { type: "button", "aria-pressed": shown.has(k) }, title(run));
    button.addEventListener("click", () => {
      if (!shown.delete(k) || !inView().length) shown.add(k); // The last one stays.
      button.setAttribute("aria-pressed", shown.has(k));
      build();
      show(index);
    });
    return button;
  }));
  choose(chosen);

  /* A link of a table opens the words of its run. */
  const open = () => {
    const card = location.hash && $(location.hash.slice(1));
    if (card) card.open = true;
  };
  window.addEventListener("hashchange", open);
  open();

  /* Figures are drawn anew for the width there is: of the window, of the paper, and back. */
  let width = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    if (width !== document.documentElement.clientWidth) redraw();
    width = document.documentElement.clientWidth;
  });
  const paper = (on) => {
    const cards = document.querySelectorAll(".card");
    if (on) cards.forEach((card) => { card.dataset.open = card.open; });
    cards.forEach((card) => { card.open = on || card.dataset.open === "true"; });
    document.documentElement.classList.toggle("printing", on);
    redraw();
  };
  window.addEventListener("beforeprint", () => paper(true));
  window.addEventListener("afterprint", () => paper(false));
})();
