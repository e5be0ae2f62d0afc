/* The page at work: what is shown, the views of a step, the slider, the window and the paper. */

(() => {
  const $ = (id) => document.getElementById(id);
  const on = (target, event, action) => target.addEventListener(event, action);
  const data = JSON.parse($("data").textContent), limits = data.thresholds, shown = new Set(data.shown);
  let index = data.slider.length - 1, chosen = data.clouds.length ? data.clouds[0][0] : 0;
  let timer = null, asked = 0, views = [], panels = [], updates = [], longest = 1;

  /* What a run shows at the slider's step: its newest record not after it. */
  const cloud = (run) => run.clouds[chosen];
  const newest = (series, at = index) => (series && series.at[at] >= 0 ? series.frames[series.at[at]] : null);
  const frame = (run) => newest(cloud(run));
  const shot = (run) => newest(cloud(run).map);
  const ring = (run) => newest(cloud(run).h1);
  const names = (run) => {
    const { nearest } = shot(run) || {};
    return nearest ? nearest.map((token) => cloud(run).map.tokens[token]) : null;
  };
  const inView = () => data.runs.filter((run, k) => shown.has(k) && cloud(run));
  const every = (series, of) => inView().map(cloud).flatMap(
    (found) => (series(found) ? series(found).frames.flatMap((each) => each[of] || []) : []));
  /* The one axis of all barcodes and merge trees. */
  function domain() {
    const deaths = inView().flatMap((run) => (frame(run) && frame(run).deaths) || []);
    if (!$("zoom").checked || !deaths.length) return [0, 1.05 * longest];
    const low = least(deaths), high = most(deaths), pad = 0.06 * (high - low || high) || 1;
    return [Math.max(0, low - pad), high + pad];
  }

  /* A run's name, the step of the record that `at` finds if it is another one, and what it shows. */
  function cell(run, at, ...content) {
    const note = make("span", { class: "note" });
    updates.push(() => {
      const now = at(run), old = now && now.step !== data.slider[index];
      note.textContent = old ? `recorded at step ${now.step}` : "";
    });
    return make("figure", {}, make("figcaption", {}, title(run), note), ...content);
  }
  function plot(kind, build) {
    views.push(new Place(kind, build));
    return lastOf(views).div;
  }
  /* Bars as numbers: those of which `only` holds, or the sentence that `none` returns. */
  function table(run, caption, only, none) {
    const box = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption });
    const update = () => {
      const now = frame(run), known = names(run) || [], row = (tag, cells) =>
        make("tr", {}, ...cells.map((cell) => make(tag, {}, make("bdi", {}, cell))));
      if (box.closest("details:not([open])")) return;
      const middle = missing(now) ? 0 : mean(now.deaths), rows = missing(now) ? [] : now.deaths.flatMap(
        (death, k) => (only(death, middle) ? [row("td", [...pair(now.edges, k).map((i) => `${i} ${known[i] || ""}`),
          number(death), middle > 0 ? number(death / middle) : "–"])] : []));
      box.replaceChildren(rows.length ? make("table", {}, make("caption", {}, caption),
        make("thead", {}, row("th", ["token", "token", "distance", "of the mean"])),
        make("tbody", {}, ...rows)) : missing(now) || none(now, middle));
    };
    updates.push(update);
    return [box, update];
  }
  function barsOf(run) {
    const options = (width) => ({ domain: domain(), limits, width, named: inView().some(names) });
    const [box, update] = table(run, "The bars as numbers", () => true, () => "There is no finite bar.");
    const details = make("details", {}, make("summary", {}, "The bars as numbers"), box);
    on(details, "toggle", update);
    return cell(run, frame, make("div", { class: "beside" },
      plot("Barcode", (width) => barcode(run, frame(run), namer(names(run)), options(width))),
      plot("Merge tree", (width) =>
        tree(run, frame(run), namer(names(run)), options(width), newest(cloud(run), index - 1)))), details);
  }
  const pairsOf = (run) => cell(run, frame, table(run, "Pairs that nearly coincide",
    (death, middle) => death < limits.short * middle || death === 0,
    ({ deaths, edges }, middle) => (deaths.length ? `None. The nearest are ${pair(edges, 0)
      .map(namer(names(run)).of).join(" and ")}, at ${number(deaths[0] / middle)} of the mean.`
      : "Fewer than two tokens."))[0]);
  function planeOf(run) {
    const { features, map } = cloud(run), flat = inView().map(cloud)
      .filter((other) => other.map && other.features === features)
      .flatMap((other) => [...other.map.frames.flatMap((each) => each.xy), ...other.map.places]);
    const range = [0, 1].map((rest) => flat.filter((_, k) => k % 2 === rest)).flatMap((one) => [least(one), most(one)]);
    return cell(run, shot, plot("Map", (width) =>
      plane(run, map, shot(run), frame(run), range, namer(names(run)), width)));
  }
  function loopsOf(run) {
    const range = [least(every(({ h1 }) => h1, "births")), most(every(({ h1 }) => h1, "deaths"))];
    return cell(run, ring, cloud(run).h1 ? plot("Loops", (width) => loops(run, ring(run), range, width)) : cloud(run).no_h1);
  }
  const groupsOf = () => make("figure", {}, plot("Groups over distance", (width) => {
    const entries = inView().map((run) => ({ ...run, ...frame(run) })).filter(({ deaths }) => deaths);
    return entries.length ? groups(entries, 1.05 * longest, width) : missing(frame(inView()[0]));
  }));

  function build() {
    const runs = inView(), reasons = new Set(runs.map((run) => cloud(run).no_h1));
    [views, updates] = [[], []];
    longest = Math.max(0, most(every((found) => found, "deaths"))) || 1;
    const cells = {
      bars: runs.map(barsOf), map: runs.map(planeOf), groups: [groupsOf()], pairs: runs.map(pairsOf),
      loops: runs.some((run) => cloud(run).h1) ? runs.map(loopsOf) : [...reasons],
    };
    document.querySelectorAll(".view").forEach((view) => lastOf([...view.children]).replaceChildren(...cells[view.dataset.kind]));
  }
  function buildCurves() {
    const found = data.panels[chosen] || [], lines = found.flatMap((panel) => panel.lines);
    panels = found.map((panel) => new Place(panel.heading, (width) => curve(panel, width)));
    $("panels").replaceChildren(...found.map(({ name, heading, says, rates }, k) => {
      const grey = rates.map(({ text, value }) => `${text}: ${number(value)}`).join("; ");
      return make("figure", { class: "panel", "data-curve": name }, make("h3", {}, heading),
        make("p", { class: "says" }, `${says}${grey && ` Grey lines – ${grey}.`}`), panels[k].div);
    }), ...(data.quiet[chosen] || []).map((sentence) => make("p", { class: "note" }, sentence)));
    $("legend").replaceChildren(...Array.from(new Map(lines.map((line) => [line.name, line])).values(), title));
    $("bands").hidden = !lines.some((line) => line.low);
    panels.forEach((panel) => panel.draw());
  }

  const redraw = () => {
    updates.forEach((update) => update());
    views.forEach((view) => view.draw());
    panels.forEach(({ fig }) => fig.follow(data.slider[index]));
  };
  function show(to) {
    index = clamp(to, 0, data.slider.length - 1);
    $("step").value = index;
    $("steps-step").textContent = data.slider[index];
    $("step-text").textContent = `step ${data.slider[index]}`;
    $("step").setAttribute("aria-valuetext", $("step-text").textContent);
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(redraw);
  }
  function play(going) {
    clearInterval(timer);
    timer = going ? setInterval(() => (index + 1 < data.slider.length ? show(index + 1) : play(false)), 700) : null;
    $("play").textContent = going ? "❚❚" : "▶";
    $("play").setAttribute("aria-label", going ? "Stop" : "Play the steps");
  }
  function choose(to) {
    chosen = to;
    document.querySelectorAll("[data-cloud]").forEach((box) => { box.hidden = Number(box.dataset.cloud) !== to; });
    build();
    buildCurves();
    show(index);
  }

  $("step").max = data.slider.length - 1;
  $("play").hidden = data.slider.length < 2;
  $("cloud-label").hidden = data.clouds.length < 2;
  $("cloud").append(...data.clouds.map(([value, name]) => make("option", { value }, name)));
  $("runs").append(...data.runs.map((run, k) => {
    const button = make("button", { type: "button", "aria-pressed": shown.has(k) }, title(run));
    on(button, "click", () => {
      if (!shown.delete(k) || !inView().length) shown.add(k); // The last one stays.
      button.setAttribute("aria-pressed", shown.has(k));
      build();
      show(index);
    });
    return button;
  }));
  on($("step"), "input", () => { play(false); show(Number($("step").value)); });
  on($("play"), "click", () => {
    if (timer === null && index === data.slider.length - 1) show(0);
    play(timer === null);
  });
  on($("zoom"), "change", () => show(index));
  on($("cloud"), "change", () => choose(Number($("cloud").value)));
  choose(chosen);

  /* A link of a table opens the words of its run. */
  const open = () => { if (location.hash && $(location.hash.slice(1))) $(location.hash.slice(1)).open = true; };
  on(window, "hashchange", open);
  open();

  /* Figures are drawn anew for the width there is: of the window, of the paper, and back. */
  const fit = () => {
    panels.forEach((panel) => panel.draw());
    redraw();
  };
  on(window, "resize", fit);
  ["beforeprint", "afterprint"].forEach((event) => on(window, event, () => {
    document.documentElement.classList.toggle("printing", event === "beforeprint");
    fit();
  }));
})();
