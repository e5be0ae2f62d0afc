/* Figures: numbers in, plotly's traces and layout out. Nothing here touches the page. */
"use strict";

const Figures = (() => {
  const INK = "#222222", GREY = "#5f5f5f", GRID = "#e8e8e8", SHADE = "#f1f2f4";
  const SHORT = 0.5, GAP = 2;
  const MOUSE = window.matchMedia("(hover: hover) and (pointer: fine)").matches;
  // More leaves or points than these would carry labels that touch.
  const LABELLED_LEAVES = 60, LABELLED_POINTS = 40;

  // plotly reads tags and entities in every text it is given.
  const escape = (text) =>
    String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const isolate = (text) => "\u2068" + text + "\u2069";
  const short = (text, length) => {
    const letters = Array.from(text);
    return letters.length <= length ? text : letters.slice(0, length - 1).join("") + "…";
  };

  function number(value) {
    if (value === null || !Number.isFinite(value)) return "not finite";
    if (Math.abs(value) >= 999.5 && Math.abs(value) < 1e6) return value.toFixed(0);
    return String(Number(value.toPrecision(3))).replace("-", "−");
  }

  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const mean = (values) => (values.length ? sum(values) / values.length : NaN);
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

  /* Shares of the mean, in words. */
  function below(shares) {
    const limits = [...new Set(shares)].sort((a, b) => a - b);
    return limits.length === 1 && limits[0] === 0.5 ? "half the mean" : `${limits.map(number).join(" or ")} of the mean`;
  }

  function axis(title, more) {
    return Object.assign({
      title: { text: title, font: { size: 12, color: GREY }, standoff: 6 },
      color: GREY, gridcolor: GRID, zeroline: false, showline: false, ticks: "", fixedrange: false,
      tickfont: { size: 11, color: GREY }, automargin: false, nticks: 7,
    }, more);
  }

  function layout(height, more) {
    return Object.assign({
      height, margin: { l: 46, r: 14, t: 20, b: 40 }, showlegend: false, hovermode: "closest",
      // A finger on a figure scrolls the page; a mouse zooms by dragging, and back by a double click.
      dragmode: MOUSE ? "zoom" : false, paper_bgcolor: "#fff", plot_bgcolor: "#fff",
      font: { family: 'system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif', size: 12, color: INK },
      hoverlabel: { bgcolor: "#fff", bordercolor: "#999", font: { size: 12, color: INK }, align: "left" },
    }, more);
  }

  function empty(text) {
    return {
      data: [], label: text,
      layout: layout(110, {
        xaxis: { visible: false }, yaxis: { visible: false },
        annotations: [{ text: escape(text), showarrow: false, x: 0.5, y: 0.5, xref: "paper", yref: "paper", font: { color: GREY, size: 12 } }],
      }),
    };
  }

  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

  /* Names of virtual tokens: "3", or "3 foo" where the nearest token is known. */
  // Points may be more than when they were last named.
  const known = (names, i) => Boolean(names) && names[i] !== undefined;
  function namer(names) {
    return {
      of: (i) => (known(names, i) ? `token ${i} (‘${isolate(names[i])}’)` : `token ${i}`),
      leaf: (i) => (known(names, i) ? `${isolate(short(names[i], 14))}  ${i}` : `token ${i}`),
    };
  }

  const bars = (x, y, colour, width) => ({ type: "scatter", mode: "lines", x, y, line: { color: colour, width }, hoverinfo: "skip" });
  const touch = (x, y, hovertext) => ({ type: "scatter", mode: "markers", x, y, hoverinfo: "text", hovertext, marker: { size: 9, opacity: 0 } });

  /* Bars of dimension 0, the shortest at the bottom. `most` is the longest bar of any step. */
  function barcode(run, frame, most, name) {
    if (!frame || !frame.deaths) return empty(frame ? "The points were not finite: there are no bars." : "Nothing was recorded yet.");
    const deaths = frame.deaths, count = deaths.length, middle = mean(deaths), right = most * 1.1 || 1;
    const height = clamp(74 + 13 * (count + 1), 150, 520);
    const width = clamp(0.62 * (height - 60) / (count + 1), 1, 9);
    // A bar shorter than a pixel would not be drawn, and it is the one to look at: it is a tick.
    const x = deaths.flatMap((death) => [0, Math.max(death, 0.005 * right), null]), y = deaths.flatMap((_, k) => [k + 1, k + 1, null]);
    const data = [
      bars(x, y, run.colour, width),
      touch(deaths, deaths.map((_, k) => k + 1), deaths.map((d, k) =>
        `${escape(name.of(frame.edges[2 * k]))} – ${escape(name.of(frame.edges[2 * k + 1]))}<br>merge at ${number(d)}, ${number(d / middle)} of the mean`)),
      // The one bar that never ends: everything is one component at last.
      {
        type: "scatter", mode: "lines+markers", x: [0, right], y: [count + 1, count + 1], hoverinfo: "text",
        hovertext: "never ends: at last all tokens are one group", line: { color: GREY, width: Math.min(width, 4) },
        marker: { symbol: "triangle-right", size: [0, 10], color: GREY, opacity: 1 }, cliponaxis: false,
      },
    ];
    const shapes = [], annotations = [];
    const band = (x0, x1) => shapes.push({ type: "rect", xref: "x", yref: "paper", x0, x1, y0: 0, y1: 1, fillcolor: SHADE, line: { width: 0 }, layer: "below" });
    const mark = (at, text, anchor) => annotations.push({ x: at, y: 1, xref: "x", yref: "paper", yanchor: "bottom", xanchor: anchor, text, showarrow: false, font: { size: 10.5, color: GREY } });
    if (middle > 0) {
      band(0, SHORT * middle);
      if (SHORT * middle > 0.2 * right) mark(SHORT * middle, "redundant", "right");
      if (GAP * middle < right) band(GAP * middle, right);
      if (GAP * middle < 0.9 * right) mark(GAP * middle, "gap", "left");
      shapes.push({ type: "line", xref: "x", yref: "paper", x0: middle, x1: middle, y0: 0, y1: 1, line: { color: INK, width: 1, dash: "dot" } });
      mark(middle, `mean ${number(middle)}`, middle < 0.12 * right ? "left" : middle > 0.88 * right ? "right" : "center");
    }
    return {
      data,
      label: count ? `${plural(count, "finite bar")} from ${number(deaths[0])} to ${number(deaths[count - 1])}, mean ${number(middle)}, and one that never ends`
        : "one bar that never ends",
      layout: layout(height, {
        margin: { l: 10, r: 14, t: 20, b: 40 }, shapes, annotations,
        xaxis: axis("distance at which two groups merge", { range: [0, right * 1.015] }),
        yaxis: { visible: false, range: [0.2, count + 1.8] },
      }),
    };
  }

  /* Bars of dimension 1, between the least birth and the last death of any step. */
  function loops(run, frame, [least, most]) {
    if (!frame || !frame.deaths.length) return empty(frame ? "No loops at this step." : "No loops were recorded yet.");
    const { births, deaths } = frame, count = deaths.length, span = most - least || 1;
    const height = clamp(60 + 11 * count, 130, 340), width = clamp(0.6 * (height - 50) / count, 1, 8);
    const x = deaths.flatMap((d, k) => [births[k], Math.max(d, births[k] + 0.005 * span), null]);
    return {
      data: [
        bars(x, deaths.flatMap((_, k) => [k + 1, k + 1, null]), run.colour, width),
        touch(deaths, deaths.map((_, k) => k + 1), deaths.map((d, k) => `born at ${number(births[k])}, dies at ${number(d)}`)),
      ],
      label: plural(count, "loop"),
      layout: layout(height, {
        margin: { l: 10, r: 14, t: 6, b: 40 },
        xaxis: axis("distance (the axis does not begin at 0)", { range: [least - 0.05 * span, most + 0.05 * span] }),
        yaxis: { visible: false, range: [0.2, count + 0.8] },
      }),
    };
  }

  /* Merges in order of the distance: a forest with union-find, and places for a dendrogram. */
  function merges(n, deaths, edges) {
    const parent = Array.from({ length: n }, (_, i) => i);
    const root = (i) => { while (parent[i] !== i) { parent[i] = parent[parent[i]]; i = parent[i]; } return i; };
    const node = Array.from({ length: n }, (_, i) => ({ leaf: i, size: 1, at: 0 }));
    const list = [];
    deaths.forEach((at, k) => {
      const a = root(edges[2 * k]), b = root(edges[2 * k + 1]);
      const parts = [node[a], node[b]].sort((p, q) => q.size - p.size);
      parent[b] = a;
      node[a] = { parts, size: parts[0].size + parts[1].size, at, k };
      list.push(node[a]);
    });
    const leaves = [];
    // No recursion: a chain of merges may be as deep as there are tokens.
    const tops = [...new Set(node.map((_, i) => root(i)))].map((i) => node[i]), stack = tops.reverse();
    while (stack.length) {
      const next = stack.pop();
      if (next.parts) stack.push(next.parts[1], next.parts[0]);
      else { next.y = leaves.length; leaves.push(next.leaf); }
    }
    list.forEach((m) => { m.y = (m.parts[0].y + m.parts[1].y) / 2; });
    return { leaves, list };
  }

  const key = (edges, k) => `${edges[2 * k]} ${edges[2 * k + 1]}`;

  function tree(run, frame, before, name, named, width) {
    if (!frame || !frame.deaths) return empty(frame ? "The points were not finite: there is no tree." : "Nothing was recorded yet.");
    if (!frame.deaths.length) return empty("Fewer than two tokens: nothing merges.");
    const { leaves, list } = merges(frame.n, frame.deaths, frame.edges);
    const labelled = frame.n <= LABELLED_LEAVES;
    const height = labelled ? 70 + 16 * frame.n : clamp(70 + 3 * frame.n, 400, 700);
    const old = before && before.edges ? new Set(before.deaths.map((_, k) => key(before.edges, k))) : null;
    const kinds = [{ x: [], y: [] }, { x: [], y: [] }];
    let changed = 0;
    list.forEach((m) => {
      m.fresh = old !== null && !old.has(key(frame.edges, m.k));
      changed += m.fresh ? 1 : 0;
      const [p, q] = m.parts, into = kinds[m.fresh ? 1 : 0];
      into.x.push(p.at, m.at, m.at, q.at, null);
      into.y.push(p.y, p.y, q.y, q.y, null);
    });
    const data = [
      bars(kinds[0].x, kinds[0].y, run.colour, labelled ? 1.6 : 0.7), bars(kinds[1].x, kinds[1].y, INK, labelled ? 2.6 : 1.2),
      touch(list.map((m) => m.at), list.map((m) => m.y), list.map((m) => `${escape(name.of(frame.edges[2 * m.k]))} – ${escape(name.of(frame.edges[2 * m.k + 1]))}<br>` +
          `${m.parts[0].size} + ${m.parts[1].size} tokens merge at ${number(m.at)}` + (m.fresh ? "<br>new since the step before" : ""))),
    ];
    // From 0, unless all merges are so near to each other that they could not be told apart.
    const low = frame.deaths[0], high = frame.deaths[frame.deaths.length - 1];
    const from = Math.max(0, low - 0.4 * (high - low)), right = high + 0.06 * (high - (from > 0.3 * high ? from : 0));
    const range = high > low && from > 0.3 * high ? [from, right] : [0, right || 1];
    const room = named ? clamp(0.3 * width, 60, 128) : 62;
    return {
      data,
      label: `${plural(list.length, "merge")}, the last at ${number(list[list.length - 1].at)}` + (old ? `; ${changed} changed since the step before` : ""),
      layout: layout(height, {
        margin: { l: labelled ? room : 14, r: 14, t: 8, b: 40 },
        xaxis: axis(range[0] ? "distance (the axis does not begin at 0)" : "distance", { range }),
        yaxis: axis("", {
          range: [frame.n - 0.4, -0.6], showgrid: false, tickmode: "array", showticklabels: labelled,
          tickvals: leaves.map((_, k) => k), ticktext: leaves.map((i) => escape(name.leaf(i))),
        }),
      }),
    };
  }

  const style = (run) => ({ color: run.colour, dash: run.dash, width: run.control ? 2 : 2.2 });

  function components(entries, most) {
    const right = most * 1.1 || 1;
    const known = entries.filter((e) => e.frame && e.frame.deaths);
    if (!known.length) return empty("Nothing was recorded yet.");
    const data = known.map(({ run, frame }) => ({
      type: "scatter", mode: "lines", line: { ...style(run), shape: "hv" },
      x: [0, ...frame.deaths, right], y: [frame.n, ...frame.deaths.map((_, k) => frame.n - 1 - k), 1],
      hovertemplate: "%{y} groups from distance %{x:.3g}<extra>" + escape(short(run.name, 30)) + "</extra>",
    }));
    const top = Math.max(...known.map((e) => e.frame.n));
    return {
      data, label: known.map(({ run, frame }) => `${run.name}: ${frame.n} groups until ${number(frame.deaths[0])}, one from ${number(frame.deaths[frame.deaths.length - 1])}`).join("; "),
      layout: layout(290, { xaxis: axis("distance", { range: [0, right] }), yaxis: axis("groups of tokens", { range: [0, top * 1.05] }) }),
    };
  }

  function diagram(entries, most) {
    const known = entries.filter((e) => e.frame && e.frame.deaths);
    if (!known.length) return empty("Nothing was recorded yet.");
    const top = most * 1.12 || 1, never = most * 1.08 || 1, data = [];
    data.push({ type: "scatter", mode: "lines", x: [0, top], y: [0, top], line: { color: "#bbb", width: 1 }, hoverinfo: "skip" });
    data.push({ type: "scatter", mode: "lines", x: [0, top], y: [never, never], line: { color: "#bbb", width: 1, dash: "dot" }, hoverinfo: "skip" });
    known.forEach(({ run, frame, h1 }) => {
      const extra = `<extra>${escape(short(run.name, 30))}</extra>`;
      const dots = (x, y, symbol, what) => data.push({
        type: "scatter", mode: "markers", x, y, cliponaxis: false,
        marker: { symbol: symbol + (run.control ? "-open" : ""), size: 8, color: run.colour, opacity: run.control ? 1 : 0.55, line: { width: 1.4, color: run.colour } },
        hovertemplate: `${what} born at %{x:.3g}, dies at %{y:.3g}` + extra,
      });
      dots([...frame.deaths.map(() => 0), 0], [...frame.deaths, never], "circle", "component:");
      if (h1 && h1.deaths.length) dots(h1.births, h1.deaths, "diamond", "loop:");
    });
    return {
      data, label: known.map(({ run, frame, h1 }) => `${run.name}: ${plural(frame.deaths.length, "component")}${h1 ? `, ${plural(h1.deaths.length, "loop")}` : ""}`).join("; "),
      layout: layout(290, {
        xaxis: axis("birth", { range: [-0.03 * top, top] }), yaxis: axis("death", { range: [0, top] }),
        annotations: [{ x: top, y: never, text: "∞ never ends", showarrow: false, xanchor: "right", yanchor: "bottom", font: { size: 10.5, color: GREY } }],
      }),
    };
  }

  /* Labels where they touch nothing: first come, first served, at one of four corners. */
  function place(candidates, taken, toPixel, limit) {
    const shown = [];
    const touches = (a, b) => a.x0 < b.x1 && b.x0 < a.x1 && a.y0 < b.y1 && b.y0 < a.y1;
    candidates.forEach((c) => {
      const [px, py] = toPixel(c.x, c.y), w = 6.6 * Array.from(c.text).length + 4, h = 13;
      for (const [dx, dy, position] of [[6, -h, "top right"], [6, 1, "bottom right"], [-6 - w, -h, "top left"], [-6 - w, 1, "bottom left"]]) {
        const box = { x0: px + dx, x1: px + dx + w, y0: py + dy, y1: py + dy + h };
        if (box.x0 < 0 || box.x1 > limit[0] || box.y0 < 0 || box.y1 > limit[1] || taken.some((t) => touches(t, box))) continue;
        taken.push(box);
        shown.push({ ...c, position });
        return;
      }
      shown.push({ ...c, text: "", position: "top right" });
    });
    return shown;
  }

  function map(run, entry, at, frame, range, name, width) {
    if (!entry) return empty("The points were not kept, so there is no map.");
    const shot = entry.frames[at];
    if (!shot) return empty("The points were not kept yet.");
    const n = shot.xy.length / 2, xs = [], ys = [];
    for (let i = 0; i < n; i += 1) { xs.push(shot.xy[2 * i]); ys.push(shot.xy[2 * i + 1]); }
    const data = [], margin = { l: 10, r: 10, t: 8, b: 40 };
    // One unit is as long in both directions, so distances in the map can be compared by eye.
    const height = Math.round(clamp(0.72 * width, 260, 440));
    const inner = [width - margin.l - margin.r, height - margin.t - margin.b];
    const unit = Math.max((range.x1 - range.x0) / inner[0], (range.y1 - range.y0) / inner[1]) * 1.14 || 1;
    const cx = (range.x0 + range.x1) / 2, cy = (range.y0 + range.y1) / 2;
    const toPixel = (x, y) => [(x - cx) / unit + inner[0] / 2, inner[1] / 2 - (y - cy) / unit];
    if (frame && frame.edges && frame.n === n) {
      const x = [], y = [];
      frame.deaths.forEach((_, k) => {
        const i = frame.edges[2 * k], j = frame.edges[2 * k + 1];
        x.push(xs[i], xs[j], null); y.push(ys[i], ys[j], null);
      });
      data.push({ type: "scatter", mode: "lines", x, y, line: { color: run.colour, width: 1.3 }, opacity: 0.5, hoverinfo: "skip" });
    }
    const many = n > LABELLED_POINTS;
    if (shot.nearest) {
      const unique = [...new Set(shot.nearest)];
      const taken = xs.map((x, i) => { const [px, py] = toPixel(x, ys[i]); return { x0: px - 7, x1: px + 7, y0: py - 7, y1: py + 7 }; });
      const dots = place(
        unique.map((t) => ({ t, x: entry.places[2 * t], y: entry.places[2 * t + 1], text: many ? "" : isolate(short(entry.tokens[t], 12)) })),
        taken, toPixel, inner);
      data.push({
        type: "scatter", mode: "markers+text", x: dots.map((d) => d.x), y: dots.map((d) => d.y), text: dots.map((d) => escape(d.text)),
        textposition: dots.map((d) => d.position), textfont: { size: 11, color: GREY }, hoverinfo: "text",
        hovertext: dots.map((d) => `vocabulary: ${escape(isolate(entry.tokens[d.t]))}`),
        marker: { symbol: "square", size: 5, color: "#8a8a8a" },
      });
    }
    data.push({
      type: "scatter", mode: many ? "markers" : "markers+text", x: xs, y: ys, text: xs.map((_, i) => String(i)),
      textfont: { size: 9, color: "#fff" }, textposition: "middle center", hoverinfo: "text",
      hovertext: xs.map((_, i) => escape(name.of(i)) + (shot.distances ? `<br>distance to it ${number(shot.distances[i])}` : "")),
      marker: { size: many ? 6 : 15, color: run.colour, opacity: many ? 0.75 : 1, line: { color: "#fff", width: 1 } },
    });
    const share = Math.round(100 * (entry.share[0] + entry.share[1]));
    const bare = { showgrid: false, zeroline: false, showticklabels: false, ticks: "" };
    return {
      data,
      label: `${n} tokens${shot.nearest ? " and their nearest vocabulary tokens" : ""}, in a plane with ${share} % of the spread`,
      layout: layout(height, {
        margin, plot_bgcolor: "#fafafa",
        xaxis: axis(`this plane holds ${share} % of the spread`, { ...bare, range: [cx - unit * inner[0] / 2, cx + unit * inner[0] / 2] }),
        yaxis: axis("", { ...bare, range: [cy - unit * inner[1] / 2, cy + unit * inner[1] / 2] }),
      }),
    };
  }

  /* A quantity over the steps: [{run, steps, values}], and lines of reference [{value, dash}]. */
  function curve(series, step, zero, rates) {
    const data = series.map(({ run, steps, values }) => ({
      type: "scatter", mode: values.filter((v) => v !== null).length <= 40 ? "lines+markers" : "lines", x: steps, y: values,
      line: style(run), marker: { size: 5, color: run.colour },
      hovertemplate: "step %{x}: %{y:.4g}<extra>" + escape(short(run.name, 30)) + "</extra>",
    }));
    // The control is drawn first: it lies beneath.
    data.sort((a, b) => (a.line.dash === "solid" ? 1 : 0) - (b.line.dash === "solid" ? 1 : 0));
    const all = series.flatMap((s) => s.values).filter((v) => v !== null).concat(rates.map((r) => r.value));
    const steps = series.flatMap((s) => s.steps);
    const low = all.reduce((a, b) => Math.min(a, b), Infinity), high = all.reduce((a, b) => Math.max(a, b), -Infinity);
    const from = zero ? Math.min(0, low) : low, pad = 0.07 * (high - from) || 0.05 * Math.abs(high) || 0.05;
    const first = steps.reduce((a, b) => Math.min(a, b), Infinity), last = steps.reduce((a, b) => Math.max(a, b), -Infinity);
    const side = 0.02 * (last - first) || 0.5;
    const whole = all.length > 0 && all.every(Number.isInteger) ? { dtick: Math.max(1, Math.ceil(high / 5)) } : {};
    return {
      data, label: series.map(({ run, values }) => {
        const known = values.filter((v) => v !== null);
        return `${run.name}: from ${number(known[0])} to ${number(known[known.length - 1])}`;
      }).join("; "),
      layout: layout(200, {
        margin: { l: 46, r: 10, t: 8, b: 36 }, hovermode: "x",
        xaxis: axis("step", { range: [first - side, last + side], showgrid: false, tickformat: "d", nticks: 6 }),
        yaxis: axis("", { range: [zero && low >= 0 ? 0 : from - pad, high + pad], nticks: 5, ...whole }),
        shapes: [
          { type: "line", xref: "x", yref: "paper", x0: step, x1: step, y0: 0, y1: 1, line: { color: "#9a9a9a", width: 1 } },
          ...rates.map((r) => ({ type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: r.value, y1: r.value, line: { color: "#8a8a8a", width: 1.2, dash: r.dash } })),
        ],
      }),
    };
  }

  return { barcode, below, loops, tree, components, diagram, map, curve, known, namer, number, mean, plural, short, SHORT };
})();
