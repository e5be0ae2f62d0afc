/* A quantity over the steps. */
"use strict";

Object.assign(Figures, (() => {
  const { axis, layout, style } = Drawing;
  const { escape, number, short } = Words;

  /* Of [{run, steps, values}], with lines of reference [{value, dash}]. */
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

  return { curve };
})());
