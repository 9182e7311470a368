// Tables sort by the column that is clicked; what has no value stays last.

function setUpSorting(root) {
  root.querySelectorAll("table:has(th[aria-sort])").forEach(setUpTable);
}

function setUpTable(sortable) {
  sortable.querySelectorAll("thead th").forEach((head, column) => {
    head.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      sortable.querySelectorAll("thead th").forEach((h) => h.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = sortable.tBodies[sortable.tBodies.length - 1];  // one above it stays where it is
      const keyed = [...body.rows].map((row) => [row.cells[column].dataset.value, row]);
      const numeric = keyed.every(([key]) => key === "" || Number.isFinite(Number(key)));
      keyed.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = numeric ? a - b : a.localeCompare(b);
        return down ? -order : order;
      });
      body.append(...keyed.map(([, row]) => row));
    });
  });
}

setUpSorting(document);
