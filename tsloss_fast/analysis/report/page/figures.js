/* The figures: numbers of one step in, a figure with its label and marks out, or a sentence. */

// More rows or points than these would carry labels that touch; and the rows of the table of pairs.
const LABELLED_ROWS = 50, LABELLED_POINTS = 40, NEAREST = 10;
const NOT_FROM_0 = "distance (the axis does not begin at 0)";
const pair = (edges, k) => [edges[2 * k], edges[2 * k + 1]];
const said = (entries, text) => entries.map((entry) => `${isolate(entry.name)} ${text(entry)}`).join("; ");
const missing = (frame) => (!frame ? "Nothing was recorded yet."
  : frame.deaths ? "" : "The points were not finite, so there are no bars.");

/* Names of tokens: "token 3", or "token 3 (‘foo’)" where the nearest vocabulary token is known. */
const namer = (names) => ({
  of: (i) => `token ${i}${names[i] === undefined ? "" : ` (‘${isolate(names[i])}’)`}`,
  leaf: (i) => (names[i] === undefined ? `token ${i}` : `${isolate(short(names[i], 13))} ${i}`),
});

/* What a barcode and a merge tree of one step share: as many rows as tokens, one axis, and bands
   for what is short or long beside the mean of the bars. */
function rows({ n, deaths }, { domain: [low, high], limits, width }) {
  const labelled = n <= LABELLED_ROWS, middle = mean(deaths);
  const inner = Math.max(40, n * (labelled ? clamp(640 / n, 12, 18) : Math.min(560 / n, 5)));
  const fig = figure({
    width, height: inner + 58, left: labelled ? clamp(0.28 * width, 108, 122) : 14,
    x: { low, high, title: low ? NOT_FROM_0 : "distance at which two groups merge" },
    y: { low: n, high: 0, bare: true },
  });
  if (middle > 0) {
    [[low, limits.short * middle], [limits.gap * middle, high]].map((band) => band.map(fig.x))
      .forEach(([x, end]) => fig.put("rect", { class: "band", x, y: fig.top, width: end - x, height: inner }));
    fig.line({ class: "mean" }, [[middle, 0], [middle, n]]);
    fig.text("over", clamp(fig.x(middle), 35, width - 35), fig.top - 5, `mean ${number(middle)}`);
  }
  fig.row = (at, words) => labelled && fig.text("end", fig.left - 7, fig.y(at) + 4, words);
  return fig;
}

/* One path for all bars: with an element for each, the slider would not be fluid. `row` is the
   place of the bar k. */
function bars(fig, run, births, deaths, row, details) {
  const thick = clamp(0.55 * Math.abs(fig.y(row(1)) - fig.y(row(0))), 0.5, 8);
  // A bar shorter than a pixel would not be seen, and it is the one to look at.
  fig.line(solid(run, "bars", { "stroke-width": thick }), deaths.flatMap((death, k) =>
    [[births[k], row(k)], [Math.max(death, births[k] + fig.pixel), row(k)], null]));
  fig.marks = deaths.map((death, k) => [death, row(k), details(death, k)]);
  fig.along = "rows";
}

/* The bars of dimension 0, the shortest at the bottom, and on top the one that never ends. */
function barcode(run, frame, name, options) {
  if (missing(frame)) return missing(frame);
  const { deaths, edges, n } = frame, middle = mean(deaths), fig = rows(frame, options);
  const row = (k) => n - k - 0.5, [, end] = options.domain;
  bars(fig, run, deaths.map(() => 0), deaths, row, (death, k) => `${pair(edges, k).map(name.of)
    .join(" and ")}: two groups merge at ${number(death)}${middle > 0 ? `, ${number(death / middle)} of the mean` : ""}`);
  deaths.forEach((_, k) => fig.row(row(k), pair(edges, k).join(" – ")));
  fig.line({ class: "never" }, [[0, 0.5], [end, 0.5]]);
  fig.put("path", { class: "never", d: `M${fig.right} ${fig.y(0.5)}m-5 -4l6 4l-6 4` });
  fig.marks.push([end, 0.5, "This bar never ends: at last all tokens are one group."]);
  fig.label = `${plural(deaths.length, "finite bar")}${deaths.length ? ` from ${number(deaths[0])} to `
    + `${number(deaths.at(-1))} with the mean ${number(middle)}` : ""}, and one that never ends`;
  return fig;
}

/* Merges in the order of the distance, by union-find, with their rows in a dendrogram. */
function merges({ n, deaths, edges }) {
  const parent = Array.from({ length: n }, (_, i) => i), leaves = [];
  const node = parent.map((leaf) => ({ leaf, size: 1, at: 0 }));
  const root = (i) => {
    while (parent[i] !== i) i = parent[i] = parent[parent[i]];
    return i;
  };
  const list = deaths.map((at, k) => {
    const tokens = pair(edges, k), [a, b] = tokens.map(root);
    const parts = [node[a], node[b]].sort((p, q) => q.size - p.size);
    parent[b] = a;
    node[a] = { at, parts, tokens, size: parts[0].size + parts[1].size };
    return node[a];
  });
  // A stack and no recursion: a chain of merges may be as deep as there are tokens.
  const stack = [list.at(-1)];
  while (stack.length) {
    const next = stack.pop();
    if (next.parts) stack.push(next.parts[1], next.parts[0]);
    else next.row = leaves.push(next.leaf) - 0.5;
  }
  list.forEach((merge) => { merge.row = mean(merge.parts.map((part) => part.row)); });
  return { leaves, list };
}

function tree(run, frame, name, options, before) {
  if (missing(frame)) return missing(frame);
  if (!frame.deaths.length) return "Fewer than two tokens: nothing merges.";
  const { leaves, list } = merges(frame), fig = rows(frame, options);
  const old = !missing(before) && new Set(before.deaths.map((_, k) => `${pair(before.edges, k)}`));
  const [kept, fresh] = [false, true].map((is) => list.filter(
    ({ tokens }) => Boolean(old && !old.has(`${tokens}`)) === is));
  const forks = (some) => some.flatMap(({ at, parts: [p, q] }) =>
    [[p.at, p.row], [at, p.row], [at, q.row], [q.at, q.row], null]);
  const fine = frame.n > LABELLED_ROWS ? "hair" : "thin";
  [[kept, "line"], [fresh, "fresh"]].forEach(([some, kind]) => fig.line(solid(run, `${kind} ${fine}`), forks(some)));
  leaves.forEach((leaf, k) => fig.row(k + 0.5, name.leaf(leaf)));
  fig.marks = list.map((merge) => [merge.at, merge.row, `${merge.tokens.map(name.of).join(" and ")}: `
    + `${merge.parts.map((part) => part.size).join(" + ")} tokens merge at ${number(merge.at)}`
    + (fresh.includes(merge) ? ", unlike in the step before" : "")]);
  fig.label = `${plural(list.length, "merge")}, the last at ${number(list.at(-1).at)}`
    + (old ? `; ${fresh.length} changed since the step before` : "");
  return fig;
}

/* The points in the plane, and the vocabulary tokens nearest to them. */
function plane(run, map, shot, frame, [x0, x1, y0, y1], name, width) {
  if (!map) return "The points were not kept, so there is no map.";
  if (!shot) return "The points were not kept yet.";
  const n = shot.xy.length / 2, many = n > LABELLED_POINTS;
  const height = Math.round(clamp(0.7 * width, 250, 420)), w = width - 20, h = height - 34;
  // One unit is as long in both directions, so distances on the map can be compared by eye.
  const unit = 0.57 * Math.max((x1 - x0) / w, (y1 - y0) / h) || 1, [cx, cy] = [(x0 + x1) / 2, (y0 + y1) / 2];
  const spread = `${Math.round(100 * (map.share[0] + map.share[1]))} % of the spread`;
  const fig = figure({
    width, height, left: 10, right: 10, top: 6, bottom: 28,
    x: { low: cx - unit * w, high: cx + unit * w, bare: true, title: `this plane holds ${spread}` },
    y: { low: cy - unit * h, high: cy + unit * h, bare: true },
  });
  const points = Array.from({ length: n }, (_, i) => pair(shot.xy, i));
  if (!missing(frame) && frame.n === n) {
    fig.line(solid(run, "line thin", { opacity: 0.5 }),
      frame.deaths.flatMap((_, k) => [...pair(frame.edges, k).map((i) => points[i]), null]));
  }
  fig.marks = [...new Set(shot.nearest || [])].map(
    (token) => [...pair(map.places, token), `vocabulary token ${isolate(map.tokens[token])}`]);
  fig.dots({ class: "token" }, fig.marks);
  points.forEach(([x, y], i) => {
    fig.put("circle", solid(run, "point", { cx: fig.x(x), cy: fig.y(y), r: many ? 3.5 : 8 }));
    if (!many) fig.text("inside", fig.x(x), fig.y(y) + 3.5, String(i));
    const far = shot.nearest ? `, at the distance ${number(shot.distances[i])} from it` : "";
    fig.marks.unshift([x, y, name.of(i) + far]);
  });
  fig.label = `${plural(n, "token")} in a plane with ${spread}`;
  return fig;
}

/* The groups of several runs. The first run is drawn last: it lies on top. */
function groups(entries, longest, width) {
  const fig = figure({
    width, height: 280, left: 40, top: 22, x: { low: 0, high: longest, title: "distance" },
    y: { low: 0, high: 1.05 * most(entries.map(({ n }) => n)), title: "groups of tokens", whole: true },
  });
  [...entries].reverse().forEach((entry) => {
    const { name, n, deaths } = entry;
    const steps = deaths.flatMap((d, k) => [[d, n - k], [d, n - 1 - k]]);
    fig.line(inked(entry, "line"), [[0, n], ...steps, [longest, n - deaths.length]]);
    fig.marks.push(...deaths.map((d, k) => [d, n - 1 - k,
      `${isolate(name)}: ${plural(n - 1 - k, "group")} from the distance ${number(d)} on`]));
  });
  fig.label = said(entries, ({ n, deaths }) => `has ${plural(n, "group")}`
    + (deaths.length ? ` until ${number(deaths[0])} and one from ${number(deaths.at(-1))} on` : ""));
  return fig;
}

function loops(run, frame, [low, high], width) {
  if (!frame) return "Loops were not recorded yet.";
  const { births, deaths } = frame, pad = 0.05 * (high - low) || 1, n = deaths.length;
  if (!n) return "There is no loop at this step.";
  const fig = figure({
    width, height: clamp(11 * n, 40, 300) + 58, left: 14, y: { low: 0, high: n, bare: true },
    x: { low: low - pad, high: high + pad, title: NOT_FROM_0 },
  });
  bars(fig, run, births, deaths, (k) => k + 0.5,
    (death, k) => `A loop is born at ${number(births[k])} and dies at ${number(death)}.`);
  fig.label = `${plural(n, "loop")} between ${number(least(births))} and ${number(most(deaths))}`;
  return fig;
}

/* A quantity over the steps; `follow(step)` moves the upright line. */
function curve({ lines, rates, zero, whole }, width) {
  const known = (values) => values.filter((value) => value !== null);
  const all = known(lines.flatMap((l) => [...l.values, ...(l.low || []), ...(l.high || [])])
    .concat(rates.map((rate) => rate.value)));
  const steps = [...new Set(lines.flatMap((l) => l.steps))].sort((a, b) => a - b);
  const low = least(all), high = most(all), first = steps[0], last = steps.at(-1);
  const pad = 0.07 * (high - (zero ? Math.min(0, low) : low)) || 0.05 * Math.abs(high) || 0.05;
  const side = 0.02 * (last - first) || 0.5;
  const fig = figure({
    width, height: 190, top: 8, left: 52, x: { low: first - side, high: last + side, title: "step", whole: true },
    y: { low: zero && low >= 0 ? 0 : low - pad, high: high + pad, whole },
  });
  fig.put("line", { class: "upright", y1: fig.top, y2: fig.bottom });
  const upright = fig.svg.lastChild;
  fig.follow = (step) => fill(upright, { x1: fig.x(step), x2: fig.x(step) }, []);
  rates.forEach(({ value, dash }) => fig.line(
    { class: "rate", "stroke-dasharray": dash }, [[first - side, value], [last + side, value]]));
  [...lines].reverse().forEach((l) => {
    const at = (values) => l.steps.map((s, k) => (values[k] === null ? null : [s, values[k]]));
    if (l.low) fig.line(solid(l, "spread"), [...at(l.high), ...at(l.low).reverse()].filter(Boolean));
    fig.line(inked(l, "line"), at(l.values));
    if (known(l.values).length <= 40) fig.dots(solid(l, "dots"), at(l.values));
  });
  fig.along = "columns";
  fig.marks = steps.flatMap((s) => {
    const here = lines.map(({ name, steps: own, values }) => ({ name, value: values[own.indexOf(s)] }))
      .filter(({ value }) => Number.isFinite(value));
    return here.length ? [[s, here[0].value, `step ${s} – ${said(here, ({ value }) => number(value))}`]] : [];
  });
  fig.label = said(lines.filter((l) => known(l.values).length), ({ values }) =>
    `goes from ${number(known(values)[0])} to ${number(known(values).at(-1))}`);
  return fig;
}
