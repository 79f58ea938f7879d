for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th button").forEach((button, column) => {
    button.addEventListener("click", () => {
      const heading = button.parentElement;
      const down = heading.getAttribute("aria-sort") !== "descending";
      for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = (row) => row.cells[column].textContent.trim();
      const order = (a, b) => {
        const [x, y] = [text(a), text(b)], [m, n] = [parseFloat(x), parseFloat(y)];
        const known = Number.isFinite(m) && Number.isFinite(n);
        if (!known && Number.isFinite(m) !== Number.isFinite(n)) return Number.isFinite(m) ? 1 : -1;
        return known ? m - n : x.localeCompare(y, undefined, { numeric: true });
      };
      const rows = [...body.rows].sort(order);
      body.append(...(down ? rows.reverse() : rows));
    });
  });
}
