// Copyright: kvmops.disk contributors
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Sorts and searches the table. A browser that runs scripts takes what a noscript element holds for mere text, so that
// thousands of rows cost nothing until they are shown. Without scripts the page says the same, in the order in which it was made.
(() => {
  "use strict";
  const AT_ONCE = 200;
  const list = document.getElementById("list");
  if (!list) return;
  const [head, made] = list.textContent.split("<tbody>");
  const rows = made.slice(0, made.indexOf("</tbody>")).split(/(?=<tr>)/).filter((row) => row.startsWith("<tr>"));
  list.innerHTML = `${head}<tbody></tbody></table>`;
  const table = list.querySelector("table");
  const body = table.tBodies[0];
  const headings = Array.from(table.tHead.rows[0].cells);
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  const nothing = document.querySelector(".nothing");
  const more = document.getElementById("more");
  const texts = new Map();
  let matching = rows;

  const MARKS = { "&lt;": "<", "&gt;": ">", "&#34;": '"', "&#39;": "'", "&minus;": "−", "&amp;": "&" };
  const plain = (html) => html.replace(/<[^>]*>/g, "").replace(/&[^;]+;/g, (mark) => MARKS[mark]).trim();
  const cells = (row) => row.split(/(?=<td)/).slice(1);

  const text = (row) => {
    if (!texts.has(row)) {
      const said = [...cells(row), row.match(/.* title="([^"]*)"/s)[1]].map(plain);
      texts.set(row, ` ${said.join(" ").replace(/\s+/g, " ").toLowerCase()} `);
    }
    return texts.get(row);
  };

  const value = (row, column, numeric) => {
    const cell = cells(row)[column];
    return numeric ? Number(cell.match(/data-value="([^"]*)"/)[1]) : plain(cell);
  };

  const show = (number) => {
    body.innerHTML = matching.slice(0, number).join("");
    const left = matching.length - body.rows.length;
    more.hidden = left <= 0;
    more.textContent = `Show ${Math.min(AT_ONCE, left)} more of ${left}`;
  };

  // Words may stand anywhere; what is in quotation marks stands there as a whole.
  const wanted = () =>
    Array.from(search.value.toLowerCase().matchAll(/"([^"]+)"|\S+/g), ([word, whole]) => (whole ? ` ${whole} ` : word));

  const filter = () => {
    const words = wanted();
    matching = words.length ? rows.filter((row) => words.every((word) => text(row).includes(word))) : rows;
    found.value = `${matching.length} of ${rows.length}`;
    nothing.hidden = matching.length > 0;
    show(AT_ONCE);
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
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    filter();
  };

  headings.forEach((heading, column) => {
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
  more.addEventListener("click", () => show(body.rows.length + AT_ONCE));
  for (const link of document.querySelectorAll("[data-host]")) {
    link.addEventListener("click", () => {
      search.value = `"${link.dataset.host}"`;
      filter();
    });
  }
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((one) => (one.open = true));
    show(matching.length);
  });
  addEventListener("afterprint", () => show(AT_ONCE));
  document.querySelector(".tools").hidden = false;
  filter();
})();
