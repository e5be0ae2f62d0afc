/* The panels of curves over all steps. */
"use strict";

const Panels = (() => {
  const { cloudOf, page, state } = Shown;
  const { $, make } = Elements;
  const { Place, places } = Places;

  const CURVES = [
    ["accuracy", "Accuracy", "Of held-out items.", "measured", true],
    ["ce", "Cross-entropy, held-out", "Nats per answer; lower is better.", "measured", true],
    ["train_ce", "Cross-entropy, training", "Of each training batch.", "measured", true],
    ["mean_lifetime", "Mean death", "Mean distance at which groups merge: how spread out the prompt is.", "curves", true],
    ["coefficient_of_variation", "Coefficient of variation", "Spread of the bars over their mean; 0: all of one length.", "curves", true],
    ["entropy_gap", "Entropy gap", "ln(bars) − entropy of the bars; 0: all of one length.", "curves", true],
    ["redundancy", "Redundancy", `How far short bars are below ${Words.below(page.runs.map((run) => run.rho))}; 0: none is.`, "curves", true],
    ["total_persistence", "Total persistence", "Sum of the bars: the length of the shortest tree through all tokens.", "curves", true],
    ["bottleneck_first", "Distance to the first barcode", "Bottleneck distance: the most that any bar had to change since the first record.", "curves", true],
    ["bottleneck_previous", "Distance to the barcode before", "The same since the record before; near 0: the barcode is stable.", "curves", true],
    ["displacement_first", "Displacement since the start", "Mean distance that a token has moved since the first record.", "curves", true],
    ["displacement_previous", "Displacement since the record before", "Mean distance that a token has moved in one interval.", "curves", true],
    ["changed", "Changed merges", "Edges of the tree that the record before did not have.", "curves", true],
    ["loops", "Loops", "Bars of dimension 1.", "loops", true],
  ];

  function series(name, from) {
    return page.runs.map((run) => {
      const cloud = cloudOf(run);
      if (from === "measured") return { run, ...(run.measured[name] || {}) };
      if (!cloud) return { run };
      return { run, ...((from === "loops" ? cloud.loops : cloud.curves[name]) || {}) };
    }).filter((s) => s.values && s.values.some((v) => v !== null));
  }

  /* Rates of the untuned model, of the first run that has them: runs that are compared share them. */
  function references() {
    const run = page.runs.find((each) => each.rates.majority_rate !== undefined);
    if (!run) return [];
    const rates = [{ value: run.rates.majority_rate, text: "most frequent answer", dash: "dot" }];
    const told = run.rates.zero_shot_restricted_accuracy;
    if (told !== undefined) rates.push({ value: told, text: "told the answers", dash: "dashdot" });
    return rates;
  }

  function panels() {
    places.slice().filter((place) => place.panel).forEach((place) => place.drop());
    const blocks = [];
    CURVES.forEach(([name, heading, says, from, zero]) => {
      const found = series(name, from);
      if (!found.length) return;
      const rates = name === "accuracy" ? references() : [];
      const lines = rates.length ? ` Untuned: ${rates.map((r) => `${r.text} ${Words.number(r.value)} (${r.dash === "dot" ? "dotted" : "dash-dotted"})`).join(", ")}.` : "";
      const plot = make("div", { class: "plot" });
      const step = () => page.slider[state.index];
      const place = new Place(plot, heading, () => Figures.curve(found, step(), zero, rates),
        (div) => Plotly.relayout(div, { "shapes[0].x0": step(), "shapes[0].x1": step() }));
      place.panel = true;
      blocks.push(make("div", { class: "panel", "data-curve": name }, make("h3", {}, heading), make("p", { class: "says" }, says + lines), plot));
    });
    $("panels").replaceChildren(...blocks);
    places.forEach((place) => { if (place.panel) place.reserve(); });
  }

  return { panels };
})();
