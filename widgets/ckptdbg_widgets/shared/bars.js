// Small bars beside numbers: a ratio on a log scale, and the spread of values on both sides.

import { css, table } from "./colour.js";
import { h, svg } from "./dom.js";
import { NONFINITE, level, rank, ratio } from "./format.js";

const WIDE = 104;

// Decades that the longest meter shows.
export function topOf(data) {
  const all = data.sites
    .flatMap((site) => [site.free.ratio, site.alone?.ratio])
    .map(rank)
    .filter(Number.isFinite);
  return Math.max(Math.log10(Math.max(1, ...all)), 1.25 * Math.log10(data.noise.divergent));
}

// A ratio as a bar with its number; ticks at both thresholds.
export function meter(value, top, noise) {
  const at = (x) => (WIDE - 2) * Math.min(1, Math.max(0, Math.log10(Math.max(x, 1))) / top) + 1;
  const [length, colour] =
    value === NONFINITE
      ? [WIDE - 2, "var(--ck-ink)"]
      : [at(rank(value)), css(table("viridis"), Math.log10(Math.max(rank(value), 1)) / top)];
  const bar =
    value === null
      ? null
      : svg("rect", { x: 1, y: 2, width: Math.max(1.5, length), height: 8, rx: 1.5, style: `fill:${colour}` });
  const tick = (x, name) => svg("line", { x1: at(x), x2: at(x), y1: 0, y2: 12, class: name });
  const picture = svg(
    "svg",
    { width: WIDE, height: 12, class: "ck-meter", "aria-hidden": "true" },
    svg("rect", { x: 0.5, y: 1.5, width: WIDE - 1, height: 9, rx: 2, class: "ck-track" }),
    bar,
    tick(noise.suspect, "ck-floor"),
    tick(noise.divergent, "ck-limit"),
  );
  return h("div", { class: "ck-ratio" }, picture, h("span", { class: level(value, noise) }, ratio(value, noise)));
}

// Two spreads on one scale, source above target: a line from min to max, a box of one std around the mean.
export function band(source, target) {
  const known = [source.min, source.max, target.min, target.max].filter((value) => value !== null);
  const [low, high] = [Math.min(...known, 0), Math.max(...known, 0)];
  const at = (value) => 2 + (WIDE - 4) * (high > low ? (value - low) / (high - low) : 0.5);
  const one = (stats, y, name) => {
    if (stats.min === null || stats.max === null || stats.mean === null) return [];
    const [left, right] = [at(stats.mean - stats.std), at(stats.mean + stats.std)].map((x) =>
      Math.max(1, Math.min(WIDE - 1, x)),
    );
    return [
      svg("line", { x1: at(stats.min), x2: at(stats.max), y1: y, y2: y, class: `ck-whisker ${name}` }),
      svg("rect", { x: left, y: y - 4, width: Math.max(1.5, right - left), height: 8, class: `ck-box ${name}` }),
      svg("line", { x1: at(stats.mean), x2: at(stats.mean), y1: y - 5, y2: y + 5, class: "ck-mean" }),
    ];
  };
  const zero = svg("line", { x1: at(0), x2: at(0), y1: 0, y2: 34, class: "ck-zero" });
  return svg(
    "svg",
    { width: WIDE, height: 34, class: "ck-band", "aria-hidden": "true" },
    zero,
    one(source, 9, "is-source"),
    one(target, 25, "is-target"),
  );
}
