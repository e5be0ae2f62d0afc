/* Numbers and names as they are read. */
"use strict";

const Words = (() => {
  // plotly reads tags and entities in every text it is given.
  const escape = (text) =>
    String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const isolate = (text) => "\u2068" + text + "\u2069";
  const short = (text, length) => {
    const letters = Array.from(text);
    return letters.length <= length ? text : letters.slice(0, length - 1).join("") + "…";
  };

  function number(value) {
    if (value === null || !Number.isFinite(value)) return "not finite";
    if (Math.abs(value) >= 999.5 && Math.abs(value) < 1e6) return value.toFixed(0);
    return String(Number(value.toPrecision(3))).replace("-", "−");
  }

  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

  /* Shares of the mean, in words. */
  function below(shares) {
    const limits = [...new Set(shares)].sort((a, b) => a - b);
    return limits.length === 1 && limits[0] === 0.5 ? "half the mean" : `${limits.map(number).join(" or ")} of the mean`;
  }

  /* Names of virtual tokens: "3", or "3 foo" where the nearest token is known. */
  // Points may be more than when they were last named.
  const known = (names, i) => Boolean(names) && names[i] !== undefined;
  function namer(names) {
    return {
      of: (i) => (known(names, i) ? `token ${i} (‘${isolate(names[i])}’)` : `token ${i}`),
      leaf: (i) => (known(names, i) ? `${isolate(short(names[i], 14))}  ${i}` : `token ${i}`),
    };
  }

  return { below, escape, isolate, known, namer, number, plural, short };
})();
