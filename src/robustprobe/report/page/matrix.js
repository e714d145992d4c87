"use strict";
// Sorts and filters matrices. Rows with missing cells stay separate; without scripts the matrix is in order of rank.
for (const matrix of document.querySelectorAll(".matrix")) {
  const table = matrix.querySelector(".board");
  const filters = matrix.querySelector(".filters");
  const keys = [...table.querySelectorAll(".keys th")];
  const rowsOf = (body) => [...body.rows].filter((row) => !row.classList.contains("apart"));
  const value = (row, index) => (index ? parseFloat(row.cells[index].dataset.value) : row.dataset.name);

  const compare = (index, sign) => (first, second) => {
    const [a, b] = [value(first, index), value(second, index)];
    if (!index) return sign * a.localeCompare(b);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return sign * (a - b);
  };

  const sort = (key) => {
    const best = key.dataset.better === "low" ? "ascending" : "descending";
    const worst = best === "ascending" ? "descending" : "ascending";
    const order = key.getAttribute("aria-sort") === best ? worst : best;
    for (const other of keys) other.removeAttribute("aria-sort");
    key.setAttribute("aria-sort", order);
    const sorted = compare(key.cellIndex, order === "ascending" ? 1 : -1);
    for (const body of table.tBodies) body.append(...rowsOf(body).sort(sorted));
  };

  for (const key of keys) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...key.childNodes);
    key.append(button);
    button.addEventListener("click", () => sort(key));
  }

  const filter = () => {
    const wanted = filters.querySelector(".find").value.toLowerCase();
    const rows = [...table.tBodies].flatMap(rowsOf);
    for (const row of rows) row.hidden = !row.dataset.name.toLowerCase().includes(wanted);
    const shown = rows.filter((row) => !row.hidden).length;
    filters.querySelector(".count").textContent = `${shown} of ${rows.length} shown`;
    for (const box of filters.querySelectorAll(".benchmark")) {
      for (const cell of table.querySelectorAll(`[data-benchmark="${box.value}"]`)) cell.hidden = !box.checked;
    }
  };

  // The matrices of several eps have one filter.
  const group = matrix.closest(".levels");
  const copy = (event) => {
    if (!group) return;
    for (const other of group.querySelectorAll(".filters")) {
      if (other === filters || !event.isTrusted) continue;
      const inputs = [...filters.querySelectorAll("input")];
      [...other.querySelectorAll("input")].forEach((input, place) => {
        [input.value, input.checked] = [inputs[place].value, inputs[place].checked];
      });
      other.dispatchEvent(new Event("input"));
    }
  };

  const more = matrix.querySelector(".more");
  const scroll = matrix.querySelector(".scroll");
  const hint = () => {
    more.hidden = scroll.scrollLeft + scroll.clientWidth >= scroll.scrollWidth - 1;
  };
  scroll.addEventListener("scroll", hint, { passive: true });
  new ResizeObserver(hint).observe(scroll);
  new ResizeObserver(hint).observe(table);

  filters.hidden = false;
  filters.addEventListener("input", (event) => {
    filter();
    copy(event);
  });
  filter();
}
