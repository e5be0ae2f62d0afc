/* What every figure is made of: numbers and names as they are read, elements, axes, details. */
"use strict";

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
// Not Math.min(...values): a list of all bars of a page is longer than a call may have arguments.
const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
const most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
/* A foreign name must not turn the direction of the words around it. */
const isolate = (text) => `\u2068${text}\u2069`;
const short = (text, length) =>
  (Array.from(text).length <= length ? text : `${Array.from(text).slice(0, length - 1).join("")}…`);

/* Three significant digits, and no exponent for numbers from a thousand to a million. */
function number(value) {
  if (value === null || !Number.isFinite(value)) return "not finite";
  const whole = Math.abs(value) >= 999.5 && Math.abs(value) < 1e6;
  return (whole ? value.toFixed(0) : String(Number(value.toPrecision(3)))).replace("-", "−");
}

function fill(element, attributes, children) {
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  // Strings become text nodes: nothing of the data is ever read as markup.
  element.append(...children);
  return element;
}
const make = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/* Attributes of a mark in the colour of a run or group, which the style sheet lightens in the dark. */
const inked = ({ colour, dash }, kind, more) =>
  ({ class: `${kind} run`, style: `--own: ${colour}`, "stroke-dasharray": dash, ...more });
const solid = (run, kind, more) => inked({ colour: run.colour, dash: "" }, kind, more);
const title = (run) => make(
  "span", { class: "name" },
  draw("svg", { class: "stroke", "aria-hidden": "true" }, draw("path", inked(run, "line", { d: "M1 5H25" }))),
  make("bdi", {}, run.name));

/* About `count` round numbers: 1, 2 or 5 times a power of ten apart. */
function ticks({ low, high, whole }, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max(whole ? 1 : 0, power * [1, 2, 5, 10].find((m) => m * power > 0.999 * raw));
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, k) => Number(((first + k) * step).toPrecision(6)));
}

/* An SVG with two axes {low, high, title, bare, whole}. All places are numbers on the axes; what
   lies outside an axis stands at its end. `marks` are places with their details: [x, y, text]. */
function figure({ width, height, x, y, left = 46, right = 14, top = 18, bottom = 40 }) {
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const scale = ({ low, high }, from, to) => (value) =>
    Math.round(100 * (from + (to - from) * clamp((value - low) / (high - low || 1), 0, 1))) / 100;
  const fig = { svg, marks: [], left, top, right: width - right, bottom: height - bottom };
  fig.pixel = (x.high - x.low) / (fig.right - left);
  fig.x = scale(x, left, fig.right);
  fig.y = scale(y, fig.bottom, top);
  fig.put = (tag, attributes, ...children) => svg.append(draw(tag, attributes, ...children));
  fig.text = (kind, px, py, words) => fig.put("text", { class: kind, x: px, y: py }, words);
  const at = ([px, py]) => `${fig.x(px)} ${fig.y(py)}`, some = (points) => points.some(Boolean);
  /* One path through places, where a null lifts the pen; and one path of dots. */
  fig.line = (attributes, points) => some(points) && fig.put("path", { ...attributes,
    d: points.map((point, k) => point && `${points[k - 1] ? "L" : "M"}${at(point)}`).join("") });
  fig.dots = (attributes, points) => some(points) && fig.put("path", { ...attributes,
    d: points.map((point) => point && `M${at(point)}h0`).join("") });
  const label = (value) => String(value).replace("-", "−");
  if (!x.bare) ticks(x, clamp((width - left) / 70, 2, 7)).forEach((value) => {
    fig.line({ class: "grid" }, [[value, y.low], [value, y.high]]);
    fig.text("tick", fig.x(value), fig.bottom + 15, label(value));
  });
  if (!y.bare) ticks(y, 5).forEach((value) => {
    fig.line({ class: "grid" }, [[x.low, value], [x.high, value]]);
    fig.text("end", left - 6, fig.y(value) + 4, label(value));
  });
  fig.text("title", (left + fig.right) / 2, height - 5, x.title);
  if (y.title) fig.text("corner", 2, 11, y.title);
  return fig;
}

/* A place for a figure: `build(width)` returns one with a `label`, or a sentence instead. It is one
   stop of the keyboard, where the arrow keys walk through the marks. */
class Place {
  constructor(kind, build) {
    Object.assign(this, { kind, build, fig: { marks: [] }, div: make("div", { class: "plot" }) });
    this.div.addEventListener("pointermove", (event) => this.point(event));
    ["pointerleave", "blur"].forEach((name) => this.div.addEventListener(name, () => this.show(-1)));
    this.div.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1, Escape: 0 }[event.key], count = this.fig.marks.length;
      if (by === undefined || !count) return;
      event.preventDefault();
      this.show(by ? (Math.max(this.now, by < 0 ? 0 : -1) + by + count) % count : -1);
    });
  }

  draw() {
    const built = this.build(this.div.clientWidth || 600), { svg } = built;
    this.fig = svg ? built : { marks: [] };
    this.show(-1);
    this.div.replaceChildren(svg || make("p", { class: "note" }, built));
    const spoken = { role: "img", tabindex: "0", "aria-label": `${this.kind}: ${built.label}.` };
    if (svg) fill(this.div, spoken, []);
    else Object.keys(spoken).forEach((name) => this.div.removeAttribute(name));
  }

  /* Where a mark is in the window: the figure is as wide as its place. */
  seen([x, y]) {
    const { left, top } = this.div.getBoundingClientRect();
    return [left + this.fig.x(x), top + this.fig.y(y)];
  }

  /* Show the details of the nearest mark; of bars the height alone counts, of curves the width. */
  point({ clientX, clientY }) {
    const { marks, along } = this.fig, far = marks.map((mark) => this.seen(mark)).map(([x, y]) =>
      Math.hypot(along === "rows" ? 0 : x - clientX, along === "columns" ? 0 : y - clientY));
    this.show(least(far) < 22 ? far.indexOf(least(far)) : -1);
  }

  /* Show the details of the mark k, or none if it is -1. */
  show(k) {
    const { fig } = this, mark = fig.marks[k], tip = document.getElementById("tip");
    this.now = k;
    tip.hidden = !mark;
    if (this.ring) this.ring.remove();
    if (!mark) return;
    const [x, y] = this.seen(mark);
    this.ring = draw("circle", { class: "ring", cx: fig.x(mark[0]), cy: fig.y(mark[1]), r: 6 });
    fig.svg.append(this.ring);
    tip.textContent = mark[2];
    const room = document.documentElement.clientWidth - tip.offsetWidth - 4, above = y - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(4, Math.min(x - tip.offsetWidth / 2, room))}px`;
    tip.style.top = `${above < 4 ? y + 14 : above}px`;
  }
}
