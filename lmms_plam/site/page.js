"use strict";
// Nothing here is needed to read the page: it sorts tables, shows one model at a time, and moves through layers.
const make = (tag, words, attributes = {}) => {
  const element = document.createElement(tag);
  element.textContent = words;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

// Light or dark, over what the system says.
const tools = document.querySelector(".tools");
const dark = () =>
  (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const theme = make("button", "", { type: "button", class: "right" });
const paintTheme = () => (theme.textContent = dark() ? "light" : "dark");
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  paintTheme();
});
paintTheme();

// One model at a time, or all.
const parts = [...document.querySelectorAll("section[data-model]")];
if (parts.length > 1) {
  const choices = ["all models", ...parts.map((part) => part.dataset.model)];
  const choose = make("select", "", { "aria-label": "which models are shown", id: "model" });
  choices.forEach((name, place) => choose.append(make("option", name, { value: place ? name : "" })));
  choose.addEventListener("change", () => {
    for (const part of parts) part.classList.toggle("off", choose.value !== "" && part.dataset.model !== choose.value);
    if (choose.value) parts.find((part) => part.dataset.model === choose.value).scrollIntoView();
  });
  tools.append(choose);
}
tools.append(theme);

// Sort by a click on a heading: numbers by their first number, words by the alphabet; cells without either stay last.
const words = (cell) => [...cell.childNodes].map((node) => (node.nodeName === "BR" ? "\n" : node.textContent)).join("");
const key = (row, place) => {
  const text = words(row.cells[place]).trim();
  const number = text.replace(/,(?=\d{3})/g, "").match(/^[<>]?\s*[-+]?\d*\.?\d+/);
  return number ? parseFloat(number[0].replace(/[<>\s]/g, "")) : text.toLowerCase();
};
for (const table of document.querySelectorAll("table")) {
  const head = table.tHead && table.tHead.rows[0];
  if (!head || table.tBodies[0].rows.length < 2) continue;
  [...head.cells].forEach((cell, place) => {
    if (!words(cell).trim()) return;
    const button = make("button", words(cell), { type: "button" });
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = cell.getAttribute("aria-sort") === "descending";
      for (const other of head.cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [key(row, place), row]);
      const [known, rest] = [rows.filter(([k]) => typeof k === "number"), rows.filter(([k]) => typeof k === "string")];
      known.sort(([a], [b]) => (up ? a - b : b - a));
      rest.sort(([a], [b]) => (up ? a.localeCompare(b) : b.localeCompare(a)));
      body.append(...[...known, ...rest].map(([, row]) => row));
    });
  });
}

// The layer of attention maps.
for (const looked of document.querySelectorAll(".looked[data-shares]")) {
  const shares = JSON.parse(looked.dataset.shares);
  const slider = looked.querySelector(".slider");
  const input = make("input", "", {
    type: "range", min: 0, max: shares.length - 1, value: looked.dataset.layer, "aria-label": "decoder layer",
  });
  const told = make("output", "");
  const show = () => {
    const [before, after] = shares[input.value];
    looked.style.setProperty("--layer", input.value);
    told.textContent = `layer ${input.value}`;
    looked.querySelectorAll("[data-when]").forEach((caption) => {
      const percent = Math.round(1000 * { before, after, difference: after - before }[caption.dataset.when]) / 10 + 0;
      const [sign, unit] = caption.dataset.when === "difference" ? [percent >= 0 ? "+" : "", " points"] : ["", "%"];
      caption.textContent = sign + percent.toFixed(1) + unit;
    });
  };
  input.addEventListener("input", show);
  slider.replaceChildren(input, told);
  show();
}
