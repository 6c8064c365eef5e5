"use strict";

// Until it is switched, the page is as the system is.
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.style.colorScheme || (dark ? "dark" : "light");
  root.style.colorScheme = now === "dark" ? "light" : "dark";
});

const value = (body, column) => body.rows[0].cells[column]?.textContent.trim() ?? "";

// Numbers by size and before words; what is empty last, whichever way round.
function compare(a, b) {
  const [x, y] = [parseFloat(a), parseFloat(b)];
  if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || a.localeCompare(b);
  return x - y;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const empty = (body) => ["", "-"].includes(value(body, column));
      const bodies = [...table.tBodies].sort((a, b) => empty(a) - empty(b)
        || (down ? -1 : 1) * compare(value(a, column), value(b, column)));
      table.append(...bodies);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}

for (const input of document.querySelectorAll(".filter input")) {
  const table = input.closest(".table").querySelector("table");
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const body of table.tBodies) body.hidden = !body.textContent.toLowerCase().includes(wanted);
  });
}

// A link to a folded part opens it.
function reveal() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const folded = target && target.closest("details");
  if (folded) { folded.open = true; target.scrollIntoView(); }
}
addEventListener("hashchange", reveal);
reveal();

addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll(".exhibit")) folded.open = true;
});
