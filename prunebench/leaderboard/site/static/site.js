// Theme, sorting and filtering. Every page is whole without it.
"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const order = ["system", "light", "dark"];
  const name = () => root.dataset.theme || "system";
  const show = () => { button.textContent = `Theme: ${name()}`; };
  button.hidden = false;
  show();
  button.addEventListener("click", () => {
    const next = order[(order.indexOf(name()) + 1) % 3];
    if (next === "system") delete root.dataset.theme; else root.dataset.theme = next;
    try { localStorage.setItem("prunebench-theme", next); } catch { /* not saved */ }
    show();
  });

  const table = document.getElementById("board");
  if (!table) return;
  const body = table.tBodies[0];
  const original = [...body.rows];
  const rows = original.filter((row) => !row.classList.contains("group"));
  const groups = original.filter((row) => row.classList.contains("group"));
  const heads = [...table.tHead.rows[0].cells];
  let sorted = { at: -1, up: true };

  const value = (row, at) => {
    const cell = row.cells[at];
    const text = cell.dataset.v ?? (cell.classList.contains("m") ? cell.textContent.trim() : "");
    return text === "" ? null : (Number.isNaN(Number(text)) ? text.toLowerCase() : Number(text));
  };
  const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  const arrange = () => {
    let next = original;
    if (sorted.at >= 0) {
      // Rows without a value stay last, whichever way.
      next = rows.map((row, i) => [value(row, sorted.at), i, row]).sort((x, y) => {
        if (x[0] === null || y[0] === null) return (x[0] === null) - (y[0] === null) || x[1] - y[1];
        return (sorted.up ? 1 : -1) * compare(x[0], y[0]) || x[1] - y[1];
      }).map((entry) => entry[2]);
    }
    body.replaceChildren(...next);
    heads.forEach((head, at) => {
      const state = at !== sorted.at ? null : sorted.up ? "ascending" : "descending";
      if (state) head.setAttribute("aria-sort", state); else head.removeAttribute("aria-sort");
    });
    filter();
  };
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      if (sorted.at !== at) sorted = { at, up: true };
      else if (sorted.up) sorted = { at, up: false };
      else sorted = { at: -1, up: true };
      arrange();
    });
  });

  const form = document.getElementById("controls");
  const find = document.getElementById("find");
  const count = document.getElementById("count");
  const selects = [...form.querySelectorAll("select")];
  const fits = (row) => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = row.textContent.toLowerCase();
    return words.every((word) => text.includes(word)) && selects.every((select) => {
      const wanted = select.value;
      return !wanted || row.dataset[select.dataset.filter].split(" ").includes(wanted);
    });
  };
  const filter = () => {
    const shown = rows.filter((row) => { row.hidden = !fits(row); return !row.hidden; });
    groups.forEach((group) => {
      group.hidden = !shown.some((row) => row.dataset.group === group.dataset.group);
    });
    count.textContent = `${shown.length} of ${rows.length} rows`;
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  form.querySelectorAll("[data-set]").forEach((box) => box.addEventListener("change", () => {
    table.classList.toggle(`no-${box.dataset.set}`, !box.checked);
  }));
  filter();
})();
