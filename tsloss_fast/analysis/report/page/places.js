/* Places for figures, which are drawn when they can be seen. */
"use strict";

const Places = (() => {
  const CONFIG = { displayModeBar: false, showTips: false, doubleClick: "reset" };

  /* A place for a figure. It is drawn when it can be seen and something has changed since. */
  const places = [];
  const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => {
    const place = places.find((p) => p.plot === entry.target);
    if (!place) return;
    place.seen = entry.isIntersecting;
    place.draw();
  }), { rootMargin: "200px" });

  class Place {
    constructor(plot, kind, build, move) {
      Object.assign(this, { plot, kind, build, move, seen: false, dirty: true, moved: false });
      plot.setAttribute("role", "img");
      places.push(this);
      watcher.observe(plot);
    }
    draw(force) {
      if (!(this.seen || force) || !this.plot.clientWidth) return;
      if (this.dirty) {
        const figure = this.build(this.plot.clientWidth);
        const printing = document.documentElement.classList.contains("printing");
        // Four rows of curves fit on a sheet.
        const height = figure.layout.height * (printing && this.panel ? 0.8 : 1);
        Plotly.react(this.plot, figure.data, { ...figure.layout, width: this.plot.clientWidth, height }, CONFIG);
        this.plot.style.minHeight = `${height}px`;
        this.plot.setAttribute("aria-label", `${this.kind}. ${figure.label}`);
      } else if (this.moved && this.move) {
        this.move(this.plot);
      }
      this.dirty = this.moved = false;
    }
    /* Room before it is drawn, so that nothing jumps when it is. */
    reserve() {
      if (this.plot.clientWidth) this.plot.style.minHeight = `${this.build(this.plot.clientWidth).layout.height}px`;
    }
    drop() { watcher.unobserve(this.plot); Plotly.purge(this.plot); places.splice(places.indexOf(this), 1); }
  }
  let asked = false;
  function redraw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; places.slice().forEach((place) => place.draw()); });
  }
  const spoil = () => { places.forEach((place) => { place.dirty = true; }); redraw(); };

  return { Place, places, redraw, spoil };
})();
