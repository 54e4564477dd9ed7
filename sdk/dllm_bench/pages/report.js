"use strict";
// Sorts the table, lights up one scheduler in every chart, reads out a cell under the pointer or at the arrow keys. Nothing else needs it.

const table = document.querySelector(".sortable");
const status_ = document.querySelector("[role=status]");
const value = (row, column) => {
  const text = row.cells[column].textContent;
  const number = parseFloat(text.replaceAll(",", ""));
  return column && !Number.isNaN(number) ? number : column ? -Infinity : text;
};

table.querySelectorAll("thead th").forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  head.replaceChildren(button);
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending" || (!column && !head.hasAttribute("aria-sort"));
    table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
    });
    table.tBodies[0].append(...rows);
    status_.textContent = `Sorted by ${button.textContent}, ${up ? "lowest" : "highest"} first.`;
  });
});

const light = (series) => {
  document.body.classList.toggle("lit", series !== undefined);
  document.querySelectorAll("[data-series]").forEach((one) => {
    one.classList.toggle("on", one.dataset.series === series);
  });
};
const lighten = (event) => light(event.target.closest("[data-series]")?.dataset.series);
document.addEventListener("pointerover", lighten);
document.addEventListener("focusin", lighten);

document.querySelectorAll(".prompt").forEach((prompt) => {
  const strips = [...prompt.querySelectorAll(".order [data-series]")];
  const answers = prompt.querySelectorAll(".answer");
  const readout = prompt.querySelector(".readout");
  strips.forEach((strip, i) => {
    const plot = strip.querySelector(".plot");
    const tokens = [...answers[i].querySelectorAll("[data-at]")];
    let here = -1;
    const read = (token) => {
      readout.textContent = token ? `position ${token.dataset.at}: “${token.textContent.trim()}”, ${token.title}` : "";
    };
    plot.tabIndex = 0;
    plot.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      here = Math.min(tokens.length - 1, Math.max(0, here + by));
      read(tokens[here]);
    });
    const point = (event) => {
      const box = plot.getBoundingClientRect();
      const length = Number(plot.dataset.length);
      const at = Math.min(length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * length)));
      here = tokens.findIndex((token) => Number(token.dataset.at) === at);
      read(tokens[here]);
    };
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point); // a finger does not hover
  });
});
