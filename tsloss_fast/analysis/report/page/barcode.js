/* The bars of a step: as bars, as groups over the distance, and as points of a diagram. */
"use strict";

Object.assign(Figures, (() => {
  const { GREY, INK, SHADE, axis, bars, clamp, empty, layout, style, touch } = Drawing;
  const { escape, number, plural, short } = Words;
  const SHORT = 0.5, GAP = 2;

  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const mean = (values) => (values.length ? sum(values) / values.length : NaN);

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

  return { barcode, components, diagram, loops, mean, SHORT };
})());
