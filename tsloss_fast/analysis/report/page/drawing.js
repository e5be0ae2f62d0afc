/* What all figures are made of: plotly's axes, layouts and marks. */
"use strict";

const Drawing = (() => {
  const { escape } = Words;

  const INK = "#222222", GREY = "#5f5f5f", GRID = "#e8e8e8", SHADE = "#f1f2f4";
  const MOUSE = window.matchMedia("(hover: hover) and (pointer: fine)").matches;

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

  const bars = (x, y, colour, width) => ({ type: "scatter", mode: "lines", x, y, line: { color: colour, width }, hoverinfo: "skip" });
  const touch = (x, y, hovertext) => ({ type: "scatter", mode: "markers", x, y, hoverinfo: "text", hovertext, marker: { size: 9, opacity: 0 } });
  const style = (run) => ({ color: run.colour, dash: run.dash, width: run.control ? 2 : 2.2 });

  return { GREY, INK, SHADE, axis, bars, clamp, empty, layout, style, touch };
})();

/* Each file of figures adds its own: numbers in, plotly's traces and layout out, and nothing touches the page. */
const Figures = {};
