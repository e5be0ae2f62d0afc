/* Elements of the page, made of text alone. */
"use strict";

const Elements = (() => {
  const $ = (id) => document.getElementById(id);

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    Object.entries(attributes || {}).forEach(([name, value]) => element.setAttribute(name, value));
    // Strings become text nodes: nothing of the data is ever read as markup.
    element.append(...children);
    return element;
  }

  function stroke(run) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), line = document.createElementNS(svg.namespaceURI, "line");
    const dashes = { dash: "6 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "10 4" };
    svg.setAttribute("class", "stroke");
    svg.setAttribute("aria-hidden", "true");
    Object.entries({ x1: 1, x2: 25, y1: 5, y2: 5, stroke: run.colour, "stroke-width": 3, "stroke-dasharray": dashes[run.dash] || "none" })
      .forEach(([name, value]) => line.setAttribute(name, value));
    svg.append(line);
    return svg;
  }
  const title = (run) => make("span", { class: "name" }, stroke(run), make("bdi", {}, run.name));

  function table(head, rows, caption) {
    return make("table", {}, make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...head.map(([text, kind]) => make("th", { scope: "col", class: kind || "" }, text)))),
      make("tbody", {}, ...rows));
  }

  return { $, make, table, title };
})();
