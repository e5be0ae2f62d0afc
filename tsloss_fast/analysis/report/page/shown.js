/* What the page shows: the data, the step, the cloud and the runs that are chosen. */
"use strict";

const Shown = (() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const state = { index: page.slider.length - 1, cloud: page.clouds.length ? page.clouds[0][0] : 0, timer: null };
  // The first runs side by side; the others are one press away.
  const SIDE_BY_SIDE = 4;
  const shown = page.runs.map((_, k) => k < SIDE_BY_SIDE);

  /* What a run shows at the slider's step. */
  const cloudOf = (run) => run.clouds[state.cloud];
  const frameAt = (series, index) => (series && index >= 0 && series.at[index] >= 0 ? series.frames[series.at[index]] : null);
  const frame = (run, back) => frameAt(cloudOf(run), state.index - (back || 0));
  const h1 = (run) => { const cloud = cloudOf(run); return cloud && cloud.h1 ? frameAt(cloud.h1, state.index) : null; };
  function namesOf(run) {
    const cloud = cloudOf(run), shot = cloud && frameAt(cloud.map, state.index);
    return shot && shot.nearest ? shot.nearest.map((t) => cloud.map.tokens[t]) : null;
  }

  /* Scales that hold for all runs and steps of a cloud, so that what moves is the prompt. */
  const cached = new Map();
  function scales() {
    if (cached.has(state.cloud)) return cached.get(state.cloud);
    const found = { most: 0, mostH1: 0, leastH1: Infinity, ranges: new Map() };
    page.runs.forEach((run) => {
      const cloud = cloudOf(run);
      if (!cloud) return;
      const longest = (frames) => frames.reduce((best, f) => (f.deaths || []).reduce((a, b) => Math.max(a, b), best), 0);
      found.most = Math.max(found.most, longest(cloud.frames));
      if (cloud.h1) {
        found.mostH1 = Math.max(found.mostH1, longest(cloud.h1.frames));
        found.leastH1 = cloud.h1.frames.flatMap((f) => f.births).reduce((a, b) => Math.min(a, b), found.leastH1);
      }
      if (!cloud.map) return;
      // Runs of as many coordinates lie in one plane.
      const range = found.ranges.get(cloud.features) || { x0: Infinity, x1: -Infinity, y0: Infinity, y1: -Infinity };
      const widen = (places) => places.forEach((v, k) => {
        const [low, high] = k % 2 ? ["y0", "y1"] : ["x0", "x1"];
        range[low] = Math.min(range[low], v); range[high] = Math.max(range[high], v);
      });
      cloud.map.frames.forEach((f) => widen(f.xy));
      widen(cloud.map.places);
      found.ranges.set(cloud.features, range);
    });
    found.most = Math.max(found.most, found.mostH1);
    cached.set(state.cloud, found);
    return found;
  }

  return { cloudOf, frame, frameAt, h1, namesOf, page, scales, shown, state };
})();
