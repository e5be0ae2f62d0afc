/* The page at work: the slider, the buttons, the window and the paper. */
"use strict";

(() => {
  const { page, shown, state } = Shown;
  const { $, make, title } = Elements;
  const { places, redraw, spoil } = Places;
  const { updates, views } = Views;
  const { panels } = Panels;
  const TICK = 700;

  function show(index) {
    state.index = Math.max(0, Math.min(page.slider.length - 1, index));
    const step = page.slider[state.index];
    $("step").value = state.index;
    $("step").setAttribute("aria-valuetext", `step ${step}`);
    $("step-text").textContent = `step ${step}`;
    $("steps-step").textContent = step;
    places.forEach((place) => { place[place.view ? "dirty" : "moved"] = true; });
    updates.forEach((update) => update());
    redraw();
  }

  function play(on) {
    clearInterval(state.timer);
    state.timer = on ? setInterval(() => { if (state.index + 1 >= page.slider.length) play(false); else show(state.index + 1); }, TICK) : null;
    $("play").textContent = on ? "❚❚" : "▶";
    $("play").setAttribute("aria-label", on ? "Stop" : "Play the steps");
  }

  function choose(cloud) {
    state.cloud = cloud;
    document.querySelectorAll("#summary [data-cloud]").forEach((box) => { box.hidden = Number(box.dataset.cloud) !== cloud; });
    views();
    panels();
    show(state.index);
  }

  /* Wiring. */
  $("step").max = page.slider.length - 1;
  $("step").addEventListener("input", () => { play(false); show(Number($("step").value)); });
  $("play").addEventListener("click", () => {
    if (state.timer === null && state.index === page.slider.length - 1) show(0);
    play(state.timer === null);
  });
  $("play").hidden = page.slider.length < 2;
  page.clouds.forEach(([cloud, name]) => $("cloud").append(make("option", { value: cloud }, name)));
  $("cloud-label").hidden = page.clouds.length < 2;
  $("cloud").addEventListener("change", () => choose(Number($("cloud").value)));
  if (page.runs.length > 1) {
    page.runs.forEach((run, k) => {
      const button = make("button", { type: "button", "aria-pressed": shown[k] }, ...title(run).childNodes);
      button.addEventListener("click", () => {
        if (shown[k] && shown.filter(Boolean).length === 1) return;
        shown[k] = !shown[k];
        button.setAttribute("aria-pressed", shown[k]);
        views();
        show(state.index);
      });
      $("runs").append(button);
    });
  }
  page.runs.forEach((run) => $("legend").append(title(run)));
  ["controls", "steps", "curves"].forEach((id) => { $(id).hidden = false; });
  choose(state.cloud);

  /* All figures at the width there is now: on the window's change, on paper, and back. */
  let width = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    if (width === document.documentElement.clientWidth) return;
    width = document.documentElement.clientWidth;
    spoil();
  });
  function paper(on) {
    document.documentElement.classList.toggle("printing", on);
    places.forEach((place) => { place.dirty = true; });
    document.querySelectorAll("details.story").forEach((story) => { if (on) story.dataset.open = story.open ? "1" : ""; story.open = on || story.dataset.open === "1"; });
    if (on) places.slice().forEach((place) => place.draw(true));
    else redraw();
  }
  window.addEventListener("beforeprint", () => paper(true));
  window.addEventListener("afterprint", () => paper(false));
})();
