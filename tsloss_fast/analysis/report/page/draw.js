/* What every figure is made of: numbers and names as they are read, elements, axes, details. */
"use strict";

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const least = (values, start = Infinity) => values.reduce((a, b) => Math.min(a, b), start);
const most = (values, start = -Infinity) => values.reduce((a, b) => Math.max(a, b), start);
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
/* A name of foreign data must not turn the direction of the words around it. */
const isolate = (text) => `\u2068${text}\u2069`;

function short(text, length) {
  const letters = Array.from(text);
  return letters.length <= length ? text : letters.slice(0, length - 1).join("") + "…";
}

/* Three significant digits, and no exponent for whole numbers up to a million. */
function number(value) {
  if (value === null || !Number.isFinite(value)) return "not finite";
  const whole = Math.abs(value) >= 999.5 && Math.abs(value) < 1e6;
  return (whole ? value.toFixed(0) : String(Number(value.toPrecision(3)))).replace("-", "−");
}

function fill(element, attributes, children) {
  Object.entries(attributes || {}).forEach(([name, value]) => element.setAttribute(name, value));
  // Strings become text nodes: nothing of the data is ever read as markup.
  element.append(...children);
  return element;
}
const make = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
/* The colour of a run or group, which the style sheet lightens on a dark page. */
const own = ({ colour }) => `--own: ${colour}`;
const title = (run) => make("span", { class: "name" }, draw(
  "svg", { class: "stroke", "aria-hidden": "true" },
  draw("line", { class: "line run", style: own(run), x1: 1, x2: 25, y1: 5, y2: 5, "stroke-dasharray": run.dash }),
), make("bdi", {}, run.name));

/* Round numbers 1, 2 or 5 times a power of ten, about `count` of them. */
function ticks(low, high, count, whole) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const round = power * [1, 2, 5, 10].find((m) => m * power >= raw * 0.999);
  const step = whole ? Math.max(1, round) : round, found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k += 1) found.push(k * step);
  return found;
}

/* An SVG with two axes {low, high, title, ticks}; its functions x and y say where a number stands.
   What lies outside an axis stands at its end. */
function figure({ width, height, x, y, left = 46, right = 14, top = 18, bottom = 40 }) {
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const place = (axis, from, to) => (value) =>
    Math.round(100 * (from + (to - from) * clamp((value - axis.low) / (axis.high - axis.low || 1), 0, 1))) / 100;
  const put = (...parts) => svg.append(draw(...parts));
  const drawn = {
    svg, put, left, top, right: width - right, bottom: height - bottom, marks: [],
    x: place(x, left, width - right), y: place(y, height - bottom, top),
    path: (d, more) => d && put("path", { d, ...more }),
  };
  const count = clamp(Math.round((width - left - right) / 70), 2, 7);
  const label = (v) => String(Number(v.toPrecision(6))).replace("-", "−");
  if (x.ticks !== false) {
    ticks(x.low, x.high, count, x.whole).forEach((v) => {
      drawn.path(`M${drawn.x(v)} ${top}V${drawn.bottom}`, { class: "grid" });
      put("text", { class: "tick", x: drawn.x(v), y: drawn.bottom + 15 }, label(v));
    });
  }
  if (y.ticks !== false) {
    ticks(y.low, y.high, 4, y.whole).forEach((v) => {
      drawn.path(`M${left} ${drawn.y(v)}H${drawn.right}`, { class: "grid" });
      put("text", { class: "row", x: left - 6, y: drawn.y(v) + 4 }, label(v));
    });
  }
  if (x.title) put("text", { class: "title", x: (left + drawn.right) / 2, y: height - 5 }, x.title);
  if (y.title) put("text", { class: "corner", x: 2, y: 11 }, y.title);
  return drawn;
}

/* A place for a figure. `build(width)` returns a figure with a `label`, or a sentence instead. A
   figure is one stop of the keyboard; the arrow keys walk through the details of its marks. */
class Place {
  constructor(kind, build) {
    Object.assign(this, { kind, build, div: make("div", { class: "plot" }), marks: [], now: -1 });
    const by = { ArrowRight: 1, ArrowLeft: -1 };
    this.div.addEventListener("pointermove", (event) => this.point(event));
    ["pointerleave", "blur"].forEach((name) => this.div.addEventListener(name, () => this.hide()));
    this.div.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.hide();
      if (!by[event.key] || !this.marks.length) return;
      event.preventDefault();
      this.show((Math.max(this.now, by[event.key] < 0 ? 0 : -1) + by[event.key] + this.marks.length) % this.marks.length);
    });
  }

  draw() {
    const drawn = this.build(this.div.clientWidth || 600), sentence = typeof drawn === "string";
    this.hide();
    this.figure = sentence ? null : drawn;
    this.marks = sentence ? [] : drawn.marks;
    this.div.replaceChildren(sentence ? make("p", { class: "note" }, drawn) : drawn.svg);
    const spoken = sentence ? {} : { role: "img", tabindex: "0", "aria-label": `${this.kind}. ${drawn.label}.` };
    ["role", "tabindex", "aria-label"].forEach((name) => this.div.removeAttribute(name));
    fill(this.div, spoken, []);
  }

  /* The mark nearest to the pointer; `rows` counts only the height, `columns` only the width. */
  point(event) {
    if (!this.marks.length) return;
    const box = this.figure.svg.getBoundingClientRect(), zoom = this.figure.svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * zoom, y = (event.clientY - box.top) * zoom, { along } = this.figure;
    const far = this.marks.map(([px, py]) => Math.hypot(along === "rows" ? 0 : px - x, along === "columns" ? 0 : py - y));
    const nearest = far.indexOf(least(far));
    if (far[nearest] < 22) this.show(nearest);
    else this.hide();
  }

  show(k) {
    const tip = document.getElementById("tip"), box = this.figure.svg.getBoundingClientRect();
    const [x, y, text] = this.marks[k], zoom = box.width / this.figure.svg.viewBox.baseVal.width;
    this.hide();
    this.now = k;
    this.ring = draw("circle", { class: "ring", cx: x, cy: y, r: 6 });
    this.figure.svg.append(this.ring);
    tip.textContent = text;
    tip.hidden = false;
    const above = box.top + y * zoom - tip.offsetHeight - 12;
    tip.style.left = `${clamp(box.left + x * zoom - tip.offsetWidth / 2, 4, Math.max(4, document.documentElement.clientWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${above < 4 ? box.top + y * zoom + 14 : above}px`;
  }

  hide() {
    document.getElementById("tip").hidden = true;
    if (this.ring) this.ring.remove();
    this.now = -1;
  }
}
