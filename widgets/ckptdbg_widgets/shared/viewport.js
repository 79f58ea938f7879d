// Which part of a matrix is seen: zoom about a point, pan, never beyond the edges. All in cells.

export class Viewport {
  constructor(rows, columns) {
    this.rows = rows;
    this.columns = columns;
    this.reset();
  }

  reset() {
    Object.assign(this, { x: 0, y: 0, width: this.columns, height: this.rows });
  }

  get whole() {
    return this.width >= this.columns && this.height >= this.rows;
  }

  // `factor` below 1 comes closer; (fx, fy) is the fixed point as fractions of the view. `tall` is how many times
  // taller than wide a cell is drawn: a tall cell is widened first.
  zoom(factor, fx = 0.5, fy = 0.5, tall = 1) {
    const width = Math.min(this.columns, Math.max(Math.min(4, this.columns), this.width * factor));
    const down = tall <= 2 || (factor > 1 && this.width >= this.columns) ? factor : 1;
    const height = Math.min(this.rows, Math.max(Math.min(4, this.rows), this.height * down));
    this.x += (this.width - width) * fx;
    this.y += (this.height - height) * fy;
    Object.assign(this, { width, height });
    this.clamp();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.clamp();
  }

  clamp() {
    this.x = Math.max(0, Math.min(this.columns - this.width, this.x));
    this.y = Math.max(0, Math.min(this.rows - this.height, this.y));
  }

  // Moves as little as shows a cell.
  reveal(row, column) {
    if (column < this.x) this.x = column;
    if (column + 1 > this.x + this.width) this.x = column + 1 - this.width;
    if (row < this.y) this.y = row;
    if (row + 1 > this.y + this.height) this.y = row + 1 - this.height;
    this.clamp();
  }

  // Whole cells that are at least partly seen.
  window() {
    return {
      top: Math.floor(this.y),
      bottom: Math.min(this.rows, Math.ceil(this.y + this.height)),
      left: Math.floor(this.x),
      right: Math.min(this.columns, Math.ceil(this.x + this.width)),
    };
  }
}
