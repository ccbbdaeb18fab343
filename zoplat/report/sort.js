
"use strict";
// Headings of tables become buttons that sort the rows; without this script the tables are as they were written.
for (const table of document.querySelectorAll("table.rows")) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    const text = (row) => row.cells[column].textContent.trim();
    const number = (row) => parseFloat(text(row).replace(/,/g, "").replace("−", "-").replace(/^[<≥+]/, ""));
    button.addEventListener("click", () => {
      const rows = [...body.rows];
      const isNumber = heading.classList.contains("number");
      const before = heading.getAttribute("aria-sort");
      const up = before ? before !== "ascending" : !isNumber;
      rows.sort((a, b) => {
        if (!isNumber) return (up ? 1 : -1) * text(a).localeCompare(text(b));
        const x = number(a), y = number(b);
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
        return up ? x - y : y - x;
      });
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...rows);
    });
  });
}
