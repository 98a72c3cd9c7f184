// Before anything is drawn: the theme that was chosen, if any.
"use strict";
try {
  const chosen = localStorage.getItem("prunebench-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* a page from a file may have no storage */ }
