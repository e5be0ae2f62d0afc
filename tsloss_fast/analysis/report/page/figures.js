/* The figures: numbers of one step in, a figure with its label and marks out. */

// More rows or points than these would carry labels that touch.
const LABELLED_ROWS = 50, LABELLED_POINTS = 40;
const UNKNOWN = "Nothing was recorded yet.", BROKEN = "The points were not finite, so there are no bars.";
const FROM_0 = "distance at which two groups merge", NOT_FROM_0 = "distance (the axis does not begin at 0)";
const line = (run) => ({ class: "line run", style: own(run), "stroke-dasharray": run.dash });

/* Names of tokens: "token 3", or "token 3 (foo)" where the nearest vocabulary token is known. */
function namer(names) {
  const known = (i) => names && names[i] !== undefined;
  return {
    of: (i) => (known(i) ? `token ${i} (${isolate(names[i])})` : `token ${i}`),
    leaf: (i) => (known(i) ? `${isolate(short(names[i], 13))} ${i}` : `token ${i}`),
  };
}

/* The figure that a barcode and a merge tree of the same step both are: as many rows as tokens,
   one axis, and what is short or long beside the mean of the bars. */
function rows(frame, { domain, limits, width, named }) {
  const labelled = frame.n <= LABELLED_ROWS, inner = frame.n * (labelled ? clamp(640 / frame.n, 12, 18) : clamp(560 / frame.n, 0, 5));
  const left = !labelled ? 14 : named ? clamp(0.28 * width, 84, 122) : 62, middle = mean(frame.deaths), texts = [];
  const figured = figure({
    width, height: Math.max(inner, 40) + 58, left,
    x: { low: domain[0], high: domain[1], title: domain[0] ? NOT_FROM_0 : FROM_0 }, y: { low: frame.n, high: 0, ticks: false },
  });
  const { put, top, x, y } = figured, height = figured.bottom - top;
  const note = (at, text, anchor) => {
    const half = 3.1 * text.length, centre = x(at) + { start: half, middle: 0, end: -half }[anchor];
    const fits = at > domain[0] && at < domain[1] && centre - half >= left - 8 && centre + half < width && texts.every(([c, h]) => Math.abs(c - centre) > h + half + 4);
    if (fits && texts.push([centre, half])) put("text", { class: "over", x: x(at), y: top - 5, "text-anchor": anchor }, text);
  };
  const band = (from, to) => x(to) > x(from) && put("rect", { class: "band", x: x(from), y: top, width: x(to) - x(from), height });
  if (middle > 0) {
    band(domain[0], limits.short * middle);
    band(limits.gap * middle, domain[1]);
    if (middle > domain[0] && middle < domain[1]) figured.path(`M${x(middle)} ${top}V${figured.bottom}`, { class: "mean" });
    note(middle, `mean ${number(middle)}`, "middle");
    note(limits.short * middle, "nearly coincide", "end");
    note(limits.gap * middle, "gap", "start");
  }
  return Object.assign(figured, { labelled, thick: clamp(0.55 * height / frame.n, 0.5, 8), write: (at, text) => labelled && put("text", { class: "row", x: left - 7, y: y(at) + 4 }, text) });
}

/* The bars of dimension 0, the shortest at the bottom, and the one that never ends on top. */
function barcode(run, frame, name, options) {
  if (!frame || !frame.deaths) return frame ? BROKEN : UNKNOWN;
  const { deaths, edges, n } = frame, drawn = rows(frame, options), { x, y } = drawn, start = x(0), middle = mean(deaths);
  // A bar shorter than a pixel would not be seen, and it is the one to look at.
  drawn.path(deaths.map((death, k) => `M${start} ${y(n - k - 0.5)}H${Math.max(x(death), start + 1)}`).join(""), { class: "bars run", style: own(run), "stroke-width": drawn.thick });
  drawn.path(`M${start} ${y(0.5)}H${drawn.right}m-5 -4l6 4l-6 4`, { class: "never", "stroke-width": Math.min(drawn.thick, 2) });
  deaths.forEach((_, k) => drawn.write(n - k - 0.5, `${edges[2 * k]} – ${edges[2 * k + 1]}`));
  drawn.marks = [...deaths.map((death, k) => [x(death), y(n - k - 0.5), `${name.of(edges[2 * k])} and ${name.of(edges[2 * k + 1])} merge two groups at ${number(death)}, ${number(death / middle)} of the mean`]),
    [drawn.right, y(0.5), "This bar never ends: at last all tokens are one group."]];
  drawn.along = "rows";
  drawn.label = deaths.length ? `${plural(deaths.length, "finite bar")} from ${number(deaths[0])} to ${number(deaths[deaths.length - 1])} with the mean ${number(middle)}, and one that never ends` : "One bar that never ends";
  return drawn;
}

/* Merges in the order of the distance by union-find, and the order of leaves for a dendrogram. */
function merges(n, deaths, edges) {
  const parent = Array.from({ length: n }, (_, i) => i);
  const root = (i) => { while (parent[i] !== i) { parent[i] = parent[parent[i]]; i = parent[i]; } return i; };
  const node = parent.map((leaf) => ({ leaf, size: 1, at: 0 })), leaves = [];
  const list = deaths.map((at, k) => {
    const a = root(edges[2 * k]), b = root(edges[2 * k + 1]), parts = [node[a], node[b]].sort((p, q) => q.size - p.size);
    parent[b] = a;
    node[a] = { parts, size: parts[0].size + parts[1].size, at, key: `${edges[2 * k]} ${edges[2 * k + 1]}` };
    return node[a];
  });
  // A stack and no recursion: a chain of merges may be as deep as there are tokens.
  const stack = [...new Set(parent.map((_, i) => root(i)))].map((i) => node[i]).reverse();
  while (stack.length) {
    const next = stack.pop();
    if (next.parts) stack.push(next.parts[1], next.parts[0]);
    else { next.row = leaves.length + 0.5; leaves.push(next.leaf); }
  }
  list.forEach((m) => { m.row = (m.parts[0].row + m.parts[1].row) / 2; });
  return { leaves, list };
}

function tree(run, frame, name, options, before) {
  if (!frame || !frame.deaths) return frame ? BROKEN : UNKNOWN;
  if (!frame.deaths.length) return "Fewer than two tokens: nothing merges.";
  const { leaves, list } = merges(frame.n, frame.deaths, frame.edges), drawn = rows(frame, options), { x, y } = drawn;
  const old = before && before.edges && new Set(before.deaths.map((_, k) => `${before.edges[2 * k]} ${before.edges[2 * k + 1]}`));
  list.forEach((m) => { m.fresh = Boolean(old) && !old.has(m.key); });
  const path = (found) => found.map(({ at, parts: [p, q] }) => `M${x(p.at)} ${y(p.row)}H${x(at)}V${y(q.row)}H${x(q.at)}`).join("");
  drawn.path(path(list.filter((m) => !m.fresh)), { class: "line run", style: own(run), "stroke-width": drawn.labelled ? 1.6 : 0.8 });
  drawn.path(path(list.filter((m) => m.fresh)), { class: "fresh", "stroke-width": drawn.labelled ? 2.6 : 1.4 });
  leaves.forEach((leaf, k) => drawn.write(k + 0.5, name.leaf(leaf)));
  drawn.marks = list.map((m) => [x(m.at), y(m.row), `${m.key.split(" ").map((i) => name.of(Number(i))).join(" and ")}: ${m.parts[0].size} + ${m.parts[1].size} tokens merge at ${number(m.at)}${m.fresh ? "; this merge is new since the step before" : ""}`]);
  const changed = list.filter((m) => m.fresh).length;
  drawn.label = `${plural(list.length, "merge")}, the last at ${number(frame.deaths[frame.deaths.length - 1])}${old ? `; ${changed} changed since the step before` : ""}`;
  return drawn;
}

/* The points in the plane, with labels only where they touch nothing. */
function plane(run, map, shot, frame, range, name, width) {
  if (!map) return "The points were not kept, so there is no map.";
  if (!shot) return "The points were not kept yet.";
  const n = shot.xy.length / 2, height = Math.round(clamp(0.7 * width, 250, 420)), many = n > LABELLED_POINTS;
  // One unit is as long in both directions, so distances on the map can be compared by eye.
  const unit = 1.14 * Math.max((range[1] - range[0]) / (width - 20), (range[3] - range[2]) / (height - 34)) || 1;
  const axis = (low, high, pixels) => ({ low: (low + high - unit * pixels) / 2, high: (low + high + unit * pixels) / 2, ticks: false });
  const share = Math.round(100 * (map.share[0] + map.share[1]));
  const drawn = figure({ width, height, left: 10, right: 10, top: 6, bottom: 28, y: axis(range[2], range[3], height - 34),
    x: { ...axis(range[0], range[1], width - 20), title: `this plane holds ${share} % of the spread` } });
  const at = (flat, i) => [drawn.x(flat[2 * i]), drawn.y(flat[2 * i + 1])], points = Array.from({ length: n }, (_, i) => at(shot.xy, i));
  if (frame && frame.edges && frame.n === n) {
    drawn.path(frame.deaths.map((_, k) => `M${points[frame.edges[2 * k]]}L${points[frame.edges[2 * k + 1]]}`).join(""), { class: "line run", style: own(run), "stroke-width": 1.3, opacity: 0.5 });
  }
  const taken = points.map(([px, py]) => [px - 8, py - 8, px + 8, py + 8]);
  new Set(shot.nearest || []).forEach((t) => {
    const [px, py] = at(map.places, t), text = short(map.tokens[t], 12), w = 7 * Array.from(text).length + 4;
    drawn.put("rect", { class: "token", x: px - 2.5, y: py - 2.5, width: 5, height: 5 });
    drawn.marks.push([px, py, `vocabulary token ${isolate(map.tokens[t])}`]);
    const box = [[6, -13], [6, 1], [-6 - w, -13], [-6 - w, 1]].map(([dx, dy]) => [px + dx, py + dy, px + dx + w, py + dy + 13])
      .find(([x0, y0, x1, y1]) => x0 >= 0 && x1 <= width && y0 >= 0 && y1 <= drawn.bottom && taken.every(([a, b, c, d]) => x0 >= c || a >= x1 || y0 >= d || b >= y1));
    if (many || !box) return;
    taken.push(box);
    drawn.put("text", { class: "over", x: (box[0] + box[2]) / 2, y: box[3] - 3 }, isolate(text));
  });
  points.forEach(([px, py], i) => {
    drawn.put("circle", { class: "point run", style: own(run), cx: px, cy: py, r: many ? 3.5 : 8 });
    if (!many) drawn.put("text", { class: "inside", x: px, y: py + 3.5 }, String(i));
    drawn.marks.unshift([px, py, name.of(i) + (shot.distances && shot.nearest ? `, at the distance ${number(shot.distances[i])} from it` : "")]);
  });
  drawn.label = `${plural(n, "token")}${shot.nearest ? " and the vocabulary tokens nearest to them" : ""}, in a plane with ${share} % of the spread`;
  return drawn;
}

function groups(entries, longest, width) {
  const known = entries.filter(({ frame }) => frame && frame.deaths);
  if (!known.length) return UNKNOWN;
  const drawn = figure({ width, height: 280, left: 40, top: 22, x: { low: 0, high: longest, title: "distance" }, y: { low: 0, high: 1.05 * most(known.map(({ frame }) => frame.n)), title: "groups of tokens", whole: true } });
  known.forEach(({ run, frame: { n, deaths } }) => {
    drawn.path(`M${drawn.x(0)} ${drawn.y(n)}${deaths.map((d, k) => `H${drawn.x(d)}V${drawn.y(n - 1 - k)}`).join("")}H${drawn.right}`, line(run));
    deaths.forEach((d, k) => drawn.marks.push([drawn.x(d), drawn.y(n - 1 - k), `${isolate(run.name)}: ${plural(n - 1 - k, "group")} from the distance ${number(d)} on`]));
  });
  drawn.label = known.map(({ run, frame: { n, deaths } }) => `${isolate(run.name)} has ${plural(n, "group")}${deaths.length ? ` until ${number(deaths[0])} and one from ${number(deaths[deaths.length - 1])} on` : ""}`).join("; ");
  return drawn;
}

function diagram(entries, longest, width) {
  const known = entries.filter(({ frame }) => frame && frame.deaths);
  if (!known.length) return UNKNOWN;
  const top = 1.1 * longest, never = 1.05 * longest;
  const drawn = figure({ width, height: 280, top: 22, x: { low: -0.03 * top, high: top, title: "birth" }, y: { low: 0, high: top, title: "death" } }), { x, y } = drawn;
  drawn.path(`M${x(0)} ${y(0)}L${x(top)} ${y(top)}M${x(0)} ${y(never)}H${drawn.right}`, { class: "mean" });
  drawn.put("text", { class: "over", x: drawn.right - 20, y: y(never) - 4, "text-anchor": "end" }, "never ends");
  known.forEach(({ run, frame, h1 }) => {
    const dot = (kind, birth, death, text) => {
      const [px, py] = [x(birth), y(death)], shape = kind ? `M${px} ${py - 5}l5 5l-5 5l-5 -5z` : `M${px - 4} ${py}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0`;
      drawn.marks.push([px, py, `${isolate(run.name)}: ${text}`]);
      return shape;
    };
    const shapes = [...frame.deaths.map((d) => dot(0, 0, d, `a component dies at ${number(d)}`)), dot(0, 0, never, "the last component never ends"),
      ...(h1 ? h1.deaths.map((d, k) => dot(1, h1.births[k], d, `a loop is born at ${number(h1.births[k])} and dies at ${number(d)}`)) : [])];
    drawn.path(shapes.join(""), { class: `dots run${run.control ? " open" : ""}`, style: own(run) });
  });
  drawn.label = known.map(({ run, frame, h1 }) => `${isolate(run.name)} has ${plural(frame.deaths.length + 1, "component")}${h1 ? ` and ${plural(h1.deaths.length, "loop")}` : ""}`).join("; ");
  return drawn;
}

function loops(run, frame, [low, high], width) {
  if (!frame || !frame.deaths.length) return frame ? "There is no loop at this step." : "Loops were not recorded yet.";
  const { births, deaths } = frame, pad = 0.05 * (high - low) || 1, n = deaths.length;
  const drawn = figure({ width, height: clamp(11 * n, 40, 300) + 58, left: 14, x: { low: low - pad, high: high + pad, title: NOT_FROM_0 }, y: { low: 0, high: n, ticks: false } }), { x, y } = drawn;
  drawn.path(deaths.map((d, k) => `M${x(births[k])} ${y(k + 0.5)}H${Math.max(x(d), x(births[k]) + 1)}`).join(""), { class: "bars run", style: own(run), "stroke-width": clamp(0.6 * (drawn.bottom - drawn.top) / n, 0.5, 8) });
  drawn.marks = deaths.map((d, k) => [x(d), y(k + 0.5), `A loop is born at ${number(births[k])} and dies at ${number(d)}.`]);
  drawn.along = "rows";
  drawn.label = `${plural(n, "loop")} between the distances ${number(least(births))} and ${number(most(deaths))}`;
  return drawn;
}

/* A quantity over the steps; `follow(step)` moves the upright line. */
function curve({ lines, rates, zero, whole }, width) {
  const all = [...lines.flatMap((l) => [...l.values, ...(l.low || []), ...(l.high || [])]), ...rates.map((r) => r.value)].filter((v) => v !== null);
  const steps = [...new Set(lines.flatMap((l) => l.steps))].sort((a, b) => a - b), low = least(all), high = most(all);
  const pad = 0.07 * (high - (zero ? Math.min(0, low) : low)) || 0.05 * Math.abs(high) || 0.05, side = 0.02 * (steps[steps.length - 1] - steps[0]) || 0.5;
  const drawn = figure({ width, height: 190, top: 8, left: 52, x: { low: steps[0] - side, high: steps[steps.length - 1] + side, title: "step", whole: true }, y: { low: zero && low >= 0 ? 0 : low - pad, high: high + pad, whole } }), { x, y } = drawn;
  const at = (l, values) => l.steps.map((s, k) => [s, values[k]]);
  const trace = (found) => found.reduce(([d, pen], [s, v]) => (v === null ? [d, "M"] : [`${d}${pen}${x(s)} ${y(v)}`, "L"]), ["", "M"])[0];
  lines.filter((l) => l.low).forEach((l) => {
    const known = l.steps.map((_, k) => k).filter((k) => l.low[k] !== null && l.high[k] !== null);
    const edge = (values, order) => order.map((k) => `${x(l.steps[k])} ${y(values[k])}`).join("L");
    if (known.length) drawn.path(`M${edge(l.low, known)}L${edge(l.high, [...known].reverse())}Z`, { class: "spread run", style: own(l) });
  });
  rates.forEach((r) => drawn.path(`M${drawn.left} ${y(r.value)}H${drawn.right}`, { class: "rate", "stroke-dasharray": r.dash }));
  const upright = draw("path", { class: "upright" });
  drawn.svg.append(upright);
  lines.forEach((l) => {
    drawn.path(trace(at(l, l.values)), line(l));
    // A value between two gaps, or the only one, would not be seen in a line.
    const few = l.values.filter((v) => v !== null).length <= 40;
    drawn.path(at(l, l.values).filter(([, v]) => few && v !== null).map(([s, v]) => `M${x(s)} ${y(v)}h0`).join(""), { class: "knots run", style: own(l) });
  });
  drawn.follow = (step) => upright.setAttribute("d", `M${x(step)} ${drawn.top}V${drawn.bottom}`);
  drawn.marks = steps.flatMap((s) => {
    const here = lines.map((l) => [l.name, l.values[l.steps.indexOf(s)]]).filter(([, v]) => v !== undefined && v !== null);
    return here.length ? [[x(s), y(here[0][1]), `step ${s} – ${here.map(([name, v]) => `${isolate(name)}: ${number(v)}`).join("; ")}`]] : [];
  });
  drawn.along = "columns";
  const known = lines.map((l) => [l.name, l.values.filter((v) => v !== null)]).filter(([, v]) => v.length);
  drawn.label = known.map(([name, v]) => `${isolate(name)} goes from ${number(v[0])} to ${number(v[v.length - 1])}`).join("; ");
  return drawn;
}
