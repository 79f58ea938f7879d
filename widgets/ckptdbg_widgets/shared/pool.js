// Shrinking a matrix so that nothing bad is lost: of the cells that fall on one pixel the worst is shown.

// A number array from a binary trait, however the notebook hands it over.
export function floats(binary) {
  if (binary instanceof ArrayBuffer) return new Float32Array(binary);
  if (binary.byteOffset % 4 === 0) return new Float32Array(binary.buffer, binary.byteOffset, binary.byteLength / 4);
  return new Float32Array(binary.buffer.slice(binary.byteOffset, binary.byteOffset + binary.byteLength));
}

// How bad each cell is: its size, infinite where it is not a finite number.
export function scores(values) {
  const found = new Float32Array(values.length);
  for (let i = 0; i < values.length; i += 1) {
    const size = Math.abs(values[i]);
    found[i] = size < Infinity ? size : Infinity;
  }
  return found;
}

// The window [top, bottom) x [left, right) of `score` (rows of `width` cells) in at most `rows` x `columns` bins:
// the index of the worst cell of each bin.
export function worstOf(score, width, { top, bottom, left, right }, rows, columns) {
  const height = Math.min(rows, bottom - top);
  const across = Math.min(columns, right - left);
  const index = new Int32Array(height * across).fill(-1);
  const bin = new Int32Array(right - left);
  for (let c = 0; c < bin.length; c += 1) bin[c] = Math.floor((c * across) / bin.length);
  for (let r = top; r < bottom; r += 1) {
    const start = Math.floor(((r - top) * height) / (bottom - top)) * across;
    for (let c = 0; c < bin.length; c += 1) {
      const cell = r * width + left + c;
      const at = start + bin[c];
      if (index[at] < 0 || score[cell] > score[index[at]]) index[at] = cell;
    }
  }
  return { index, rows: height, columns: across };
}

// The finite value below which a share of all finite values lies; `score` may be sampled where it is large.
export function quantile(score, share) {
  const step = Math.max(1, Math.floor(score.length / 50000));
  const some = [];
  for (let i = 0; i < score.length; i += step) if (score[i] < Infinity) some.push(score[i]);
  const sorted = Float32Array.from(some).sort();
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : 0;
}

export function largest(score) {
  let most = 0;
  for (let i = 0; i < score.length; i += 1) if (score[i] > most && score[i] < Infinity) most = score[i];
  return most;
}

export function infinite(score) {
  let count = 0;
  for (let i = 0; i < score.length; i += 1) if (score[i] === Infinity) count += 1;
  return count;
}

// Indices of the `most` worst cells, the worst first.
export function ranking(score, most) {
  const sorted = Float32Array.from(score).sort();
  const limit = sorted[Math.max(0, sorted.length - most)];
  const found = [];
  for (let i = 0; i < score.length && found.length < 4 * most; i += 1)
    if (score[i] >= limit && score[i] > 0) found.push(i);
  return found.sort((a, b) => score[b] - score[a] || a - b).slice(0, most);
}

// Root mean square of every head (features / heads values each) per token: [heads, tokens]. NaN stays NaN.
export function byHead(values, tokens, features, heads) {
  const each = features / heads;
  const found = new Float32Array(heads * tokens);
  for (let token = 0; token < tokens; token += 1) {
    for (let head = 0; head < heads; head += 1) {
      let sum = 0;
      const start = token * features + head * each;
      for (let i = start; i < start + each; i += 1) sum += values[i] * values[i];
      found[head * tokens + token] = Math.sqrt(sum / each);
    }
  }
  return found;
}
