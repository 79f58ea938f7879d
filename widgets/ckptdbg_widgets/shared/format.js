// Numbers as people read them, the same as in the reports.

export const NONFINITE = "nonfinite";

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value === NONFINITE) return "not finite";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "+inf" : "−inf";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(digits - 1).replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}

// A ratio with its sign for eyes that see no colour, after the unit: ! divergent, ? suspect.
export function ratio(value, noise, unit = "") {
  const mark = { divergent: " !", suspect: " ?" }[level(value, noise)] ?? "";
  return value === NONFINITE ? "not finite !" : `${number(value)}${unit}${mark}`;
}

// none (nothing measured), healthy, suspect or divergent.
export function level(value, noise) {
  if (value === null || value === undefined) return "none";
  if (value === NONFINITE || value > noise.divergent) return "divergent";
  return value > noise.suspect ? "suspect" : "healthy";
}

// A number that orders ratios: what is not finite comes last, what was not measured first.
export function rank(value) {
  if (value === null || value === undefined) return -1;
  return value === NONFINITE ? Infinity : value;
}

export function shape(sizes) {
  return sizes.join(" × ");
}

// The middle of a long name gives way.
export function short(name, most) {
  if (name.length <= most) return name;
  const tail = Math.ceil((most - 1) * 0.6);
  return `${name.slice(0, most - 1 - tail)}…${name.slice(-tail)}`;
}
