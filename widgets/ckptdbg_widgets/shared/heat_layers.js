// The matrices behind a heatmap, and the colour of each of their values.

import { table } from "./colour.js";
import { number } from "./format.js";
import { byHead, floats, infinite, largest, quantile, scores } from "./pool.js";

const BAD = [255, 59, 48];
const SHARE = 0.999;
const DECADES = 6;

// Three layers (source, target, difference) of one shape, as the `mode` asks for: features or heads.
export function layersOf(model, mode) {
  const info = model.get("info");
  const [source, target] = [floats(model.get("source")), floats(model.get("target"))];
  const sent = model.get("difference");
  const apart = sent && sent.byteLength ? floats(sent) : subtract(target, source);
  if (mode !== "heads") return { rows: info.rows, columns: info.columns, info, mode, values: [source, target, apart] };
  const values = [source, target, apart].map((part) => byHead(part, info.rows, info.columns, info.heads));
  return { rows: info.heads, columns: info.rows, info, mode, values };
}

function subtract(a, b) {
  const found = new Float32Array(a.length);
  // Equal infinities are no difference.
  for (let i = 0; i < a.length; i += 1) found[i] = a[i] === b[i] ? 0 : a[i] - b[i];
  return found;
}

// Adds scores and colour scales. `full`: the scale of the values reaches to the largest; else it stops where all but
// one in a thousand lie below.
export function scaled(layers, full) {
  const score = layers.score ?? layers.values.map(scores);
  const top = score.slice(0, 2).map(largest);
  const limit = (full ? Math.max(...top) : Math.max(...score.slice(0, 2).map((part) => quantile(part, SHARE)))) || 1;
  const { noise } = layers.info;
  const most = largest(score[2]);
  const unit = noise ?? (most ? most / 10 ** DECADES : 1);
  const decades = Math.max(noise ? 2 : 1, Math.log10(Math.max(most, unit) / unit));
  const bad = layers.bad ?? score.map(infinite);
  return { ...layers, score, bad, limit, clipped: !full && Math.max(...top) > limit, unit, decades, most, full };
}

// RGBA of every chosen cell of layer `which`: values on a line around zero, differences on a log scale.
export function paint(layers, which, { index, rows, columns }) {
  const image = new ImageData(columns, rows);
  const bytes = table(which < 2 ? "cividis" : "viridis");
  const [values, score] = [layers.values[which], layers.score[which]];
  const signed = which < 2 && layers.mode !== "heads";
  for (let i = 0; i < index.length; i += 1) {
    const cell = index[i];
    const finite = score[cell] < Infinity;
    const part = which < 2 ? linear(values[cell], layers.limit, signed) : logarithm(score[cell], layers);
    const from = finite ? bytes : BAD;
    const at = finite ? 3 * Math.max(0, Math.min(255, Math.round(255 * part))) : 0;
    for (let c = 0; c < 3; c += 1) image.data[4 * i + c] = from[at + c];
    image.data[4 * i + 3] = 255;
  }
  return image;
}

function linear(value, limit, signed) {
  return signed ? 0.5 + (0.5 * value) / limit : value / limit;
}

function logarithm(size, { unit, decades }) {
  return size > unit ? Math.log10(size / unit) / decades : 0;
}

// What a cell holds: its place, both sides and their difference.
export function words({ columns, mode, info, values }, cell) {
  const [row, column] = [Math.floor(cell / columns), cell % columns];
  const names = mode === "heads" ? ["head", "token"] : [info.row_name, "feature"];
  const label = (which, i) => (mode === "features" && info[which]?.[i]) || i;
  const apart = values[2][cell];
  const times = info.noise && Math.abs(apart) < Infinity ? ` (${number(Math.abs(apart) / info.noise)} × noise)` : "";
  const what = mode === "heads" ? "rms " : "";
  return [
    `${names[0]} ${label("row_labels", row)}, ${names[1]} ${label("column_labels", column)}`,
    `${what}source ${number(values[0][cell], 6)}`,
    `${what}target ${number(values[1][cell], 6)}`,
    `${what}difference ${number(apart, 4)}${times}`,
  ];
}
