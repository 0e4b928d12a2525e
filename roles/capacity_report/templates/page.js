// Copyright: kvmops.disk contributors
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Sorts and searches the table. Without it the page says the same, in the order in which it was made.
(() => {
  "use strict";
  const table = document.getElementById("table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  const nothing = document.querySelector(".nothing");
  const words = new Map(rows.map((row) => [row, `${row.textContent} ${row.cells[9].title}`.toLowerCase()]));

  const value = (row, column, numeric) => {
    const cell = row.cells[column];
    return numeric ? Number(cell.dataset.value) : cell.textContent.trim();
  };

  const sort = (heading, column) => {
    const down = heading.getAttribute("aria-sort") === "ascending";
    const numeric = "numeric" in heading.dataset;
    const values = new Map(rows.map((row) => [row, value(row, column, numeric)]));
    const order = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
    rows.sort((a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      const sign = numeric ? x - y : order.compare(x, y);
      return down ? -sign : sign;
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  };

  const filter = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !wanted.every((word) => words.get(row).includes(word));
      if (!row.hidden) shown += 1;
    }
    found.value = `${shown} of ${rows.length}`;
    nothing.hidden = shown > 0;
  };

  Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.dataset.name = heading.textContent.trim();
    button.addEventListener("click", () => sort(heading, column));
    heading.replaceChildren(button);
  });
  search.addEventListener("input", filter);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && search.value) {
      search.value = "";
      filter();
      event.preventDefault();
    }
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
  document.querySelector(".tools").hidden = false;
  filter();
})();
