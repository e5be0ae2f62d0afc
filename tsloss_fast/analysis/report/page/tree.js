/* The tree of merges. */
"use strict";

Object.assign(Figures, (() => {
  const { INK, axis, bars, clamp, empty, layout, touch } = Drawing;
  const { escape, number, plural } = Words;
  // More leaves than these would carry labels that touch.
  const LABELLED_LEAVES = 60;

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

  return { tree };
})());
