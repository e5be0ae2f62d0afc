/* The points in the plane, and labels that touch nothing. */
"use strict";

Object.assign(Figures, (() => {
  const { GREY, axis, clamp, empty, layout } = Drawing;
  const { escape, isolate, number, short } = Words;
  // More points than these would carry labels that touch.
  const LABELLED_POINTS = 40;

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

  return { map };
})());
