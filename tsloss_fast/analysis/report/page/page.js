/* The page at work: what is shown, the views of a step, the slider, the window and the paper. */

(() => {
  const $ = (id) => document.getElementById(id);
  const on = (target, event, action) => target.addEventListener(event, action);
  const data = JSON.parse($("data").textContent), limits = data.thresholds, shown = new Set(data.shown);
  let index = data.slider.length - 1, chosen = data.clouds.length ? data.clouds[0][0] : 0;
  let timer = null, asked = 0, views = [], panels = [], updates = [], longest = 1;

  /* What a run shows at the slider's step: its newest record not after it. */
  const cloud = (run) => run.clouds[chosen];
  const newest = (series, at = index) => series?.frames[series.at[at]];
  const frame = (run) => newest(cloud(run));
  const shot = (run) => newest(cloud(run).map);
  const ring = (run) => newest(cloud(run).h1);
  const names = (run) => shot(run)?.nearest?.map((token) => cloud(run).map.tokens[token]) || [];
  const inView = () => data.runs.filter((run, k) => shown.has(k) && cloud(run));
  const every = (list, of) => list.flatMap((series) => (series?.frames || []).flatMap((each) => each[of] || []));
  /* The one axis of all barcodes and merge trees. */
  function domain() {
    const deaths = inView().flatMap((run) => frame(run)?.deaths || []);
    if (!$("zoom").checked || !deaths.length) return [0, 1.05 * longest];
    const low = least(deaths), high = most(deaths), pad = 0.06 * (high - low || high) || 1;
    return [Math.max(0, low - pad), high + pad];
  }

  /* A run's name, the step of the record that `at` finds if it is another one, and what it shows. */
  function cell(run, at, ...content) {
    const note = make("span", { class: "note" });
    updates.push(() => {
      const { step } = at(run) || {};
      note.textContent = [undefined, data.slider[index]].includes(step) ? "" : `recorded at step ${step}`;
    });
    return make("figure", {}, make("figcaption", {}, title(run), note), ...content);
  }
  function plot(kind, build) {
    views.push(new Place(kind, build));
    return views.at(-1).div;
  }
  function barsOf(run) {
    const options = (width) => ({ domain: domain(), limits, width });
    return cell(run, frame, make("div", { class: "beside" },
      plot("Barcode", (width) => barcode(run, frame(run), namer(names(run)), options(width))),
      plot("Merge tree", (width) =>
        tree(run, frame(run), namer(names(run)), options(width), newest(cloud(run), index - 1)))));
  }
  /* The pairs that merge first, with those marked that nearly coincide. */
  function pairsOf(run) {
    const box = make("div", {});
    const row = (tag, cells, kind) => make("tr", kind, ...cells.map((text) => make(tag, {}, make("bdi", {}, text))));
    updates.push(() => {
      const now = frame(run), known = names(run), middle = missing(now) ? 0 : mean(now.deaths);
      const body = missing(now) ? [] : now.deaths.slice(0, NEAREST).map((death, k) => row("td", [
        ...pair(now.edges, k).map((i) => `${i} ${known[i] || ""}`), number(death),
        middle > 0 ? number(death / middle) : "–"], death < limits.short * middle || death === 0 ? { class: "bad" } : {}));
      box.replaceChildren(body.length ? make("table", {},
        make("thead", {}, row("th", ["token", "token", "distance", "of the mean"], {})), make("tbody", {}, ...body))
        : missing(now) || "Fewer than two tokens: nothing merges.");
    });
    return cell(run, frame, box);
  }
  function planeOf(run) {
    const { features, map } = cloud(run), flat = inView().map(cloud)
      .filter((other) => other.map && other.features === features)
      .flatMap((other) => [...other.map.frames.flatMap((each) => each.xy), ...other.map.places]);
    const range = [0, 1].map((rest) => flat.filter((_, k) => k % 2 === rest)).flatMap((one) => [least(one), most(one)]);
    return cell(run, shot, plot("Map", (width) =>
      plane(run, map, shot(run), frame(run), range, namer(names(run)), width)));
  }
  function loopsOf(run) {
    const { h1, no_h1: why } = cloud(run), all = inView().map((other) => cloud(other).h1);
    const range = [least(every(all, "births")), most(every(all, "deaths"))];
    return cell(run, ring, h1 ? plot("Loops", (width) => loops(run, ring(run), range, width)) : why);
  }
  const groupsOf = () => make("figure", {}, plot("Groups over distance", (width) => {
    const entries = inView().map((run) => ({ ...run, ...frame(run) })).filter(({ deaths }) => deaths);
    return entries.length ? groups(entries, 1.05 * longest, width) : missing(frame(inView()[0]));
  }));

  function build() {
    const runs = inView(), reasons = new Set(runs.map((run) => cloud(run).no_h1));
    [views, updates] = [[], []];
    longest = Math.max(0, most(every(runs.map(cloud), "deaths"))) || 1;
    const cells = {
      bars: runs.map(barsOf), map: runs.map(planeOf), groups: [groupsOf()], pairs: runs.map(pairsOf),
      loops: runs.some((run) => cloud(run).h1) ? runs.map(loopsOf) : [...reasons],
    };
    document.querySelectorAll(".view").forEach((view) =>
      view.querySelector(".cells").replaceChildren(...cells[view.dataset.kind]));
    show(index);
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
    buildCurves();
    build();
  }

  $("step").max = data.slider.length - 1;
  $("cloud-label").hidden = data.clouds.length < 2;
  $("cloud").append(...data.clouds.map(([value, name]) => make("option", { value }, name)));
  $("runs").append(...data.runs.map((run, k) => {
    const button = make("button", { type: "button", "aria-pressed": shown.has(k) }, title(run));
    on(button, "click", () => {
      if (!shown.delete(k) || !inView().length) shown.add(k); // The last one stays.
      button.setAttribute("aria-pressed", shown.has(k));
      build();
    });
    return button;
  }));
  $("play").hidden = data.slider.length < 2;
  on($("step"), "input", () => {
    play(false);
    show(Number($("step").value));
  });
  on($("play"), "click", () => {
    if (timer === null && index === data.slider.length - 1) show(0);
    play(timer === null);
  });
  on($("zoom"), "change", () => show(index));
  on($("cloud"), "change", () => choose(Number($("cloud").value)));
  choose(chosen);

  /* A link of a table opens the words of its run. */
  const open = () => $(location.hash.slice(1))?.setAttribute("open", "");
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
