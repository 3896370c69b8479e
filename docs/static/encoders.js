// Searching, filtering and sorting the table of encoders. Without JavaScript the table is simply complete.
"use strict";

/** The words of a query, lower case; "2, 4, 8" is one word. */
function words(query) {
  return query.toLowerCase().replace(/,\s+/g, ",").split(/\s+/).filter(Boolean);
}

/**
 * Whether a row has every word: a list of numbers is all the strides or all the channels of an
 * encoder, anything else is part of a text.
 * @param {{text: string, lists: string[]}} row
 */
function matches(row, wanted) {
  return wanted.every((word) =>
    /^\d+(,\d+)+$/.test(word) ? row.lists.includes(word) : row.text.includes(word)
  );
}

/** Whether a cell passes a filter of that kind; an empty filter lets everything through. */
function passes(kind, cell, value) {
  if (value === "") return true;
  if (kind === "most") return parseFloat(cell) <= parseFloat(value); // not what is no number
  if (kind === "least") return parseFloat(cell) >= parseFloat(value);
  return cell === value;
}

/** The order of two cells of a column of that kind; what is no number comes last. */
function compare(kind, one, other) {
  if (kind === "text") return one.localeCompare(other, "en", { numeric: true });
  if (kind === "list") return compareLists(one.split(","), other.split(","));
  return compareNumbers(parseFloat(one), parseFloat(other));
}

function compareLists(one, other) {
  for (let i = 0; i < Math.max(one.length, other.length); i++) {
    const order = (parseFloat(one[i]) || 0) - (parseFloat(other[i]) || 0);
    if (order) return order;
  }
  return 0;
}

function compareNumbers(one, other) {
  return Number.isNaN(one) - Number.isNaN(other) || one - other || 0;
}

const FORM =
  '<div class="wide"><label for="encoder-words">Search names, licences, image sizes and strides</label>' +
  '<input id="encoder-words" type="search" autocomplete="off" spellcheck="false"' +
  ' placeholder="resnet apache 2,4,8,16,32" aria-describedby="encoder-count"></div>' +
  numberField("encoder-parameters", "Million parameters, at most", "parameters") +
  numberField("encoder-gflops", "GFLOPs, at most", "GFLOPs") +
  choiceField("encoder-licence", "Licence", "licence", "is", "") +
  choiceField("encoder-weights", "Pretrained weights", "weights", "least", '<option value="1">some</option>') +
  '<p class="wide"><span id="encoder-count" role="status"></span> <button type="reset">Show all</button></p>';

function numberField(id, label, column) {
  return (
    `<div><label for="${id}">${label}</label><input id="${id}" type="number" min="0" step="any"` +
    ` inputmode="decimal" data-column="${column}" data-kind="most"></div>`
  );
}

function choiceField(id, label, column, kind, options) {
  return (
    `<div><label for="${id}">${label}</label><select id="${id}" data-column="${column}"` +
    ` data-kind="${kind}"><option value="">all</option>${options}</select></div>`
  );
}

function start(region) {
  const table = region.querySelector("table");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.textContent);
  const kinds = heads.map((head) => head.className);
  const rows = [...body.rows].map((element) => {
    const cells = [...element.cells].map((cell) => cell.textContent.toLowerCase());
    return {
      element,
      cells,
      text: cells.filter((_, i) => kinds[i] === "text").join(" "),
      lists: cells.filter((_, i) => kinds[i] === "list").map((cell) => cell.replaceAll(" ", "")),
    };
  });

  const form = document.createElement("form");
  form.className = "encoder-search";
  form.setAttribute("role", "search");
  form.innerHTML = FORM;
  const search = form.querySelector("[type=search]");
  const count = form.querySelector("#encoder-count");
  const filters = [...form.querySelectorAll("[data-column]")].map((field) => ({
    field,
    kind: field.dataset.kind,
    column: names.indexOf(field.dataset.column),
  }));
  const licences = new Set(rows.map((row) => row.cells[names.indexOf("licence")]).filter(Boolean));
  form.querySelector("[data-kind=is]").append(...[...licences].sort().map((name) => new Option(name)));
  region.before(form);

  function show() {
    const wanted = words(search.value);
    let shown = 0;
    for (const row of rows) {
      const all = filters.every(({ field, kind, column }) => passes(kind, row.cells[column], field.value));
      row.element.hidden = !(all && matches(row, wanted));
      shown += !row.element.hidden;
    }
    count.textContent = `${shown} of ${rows.length} encoders`;
  }

  function sort(column) {
    const falling = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", falling ? "descending" : "ascending");
    const order = (one, other) => compare(kinds[column], one.cells[column], other.cells[column]);
    rows.sort((one, other) => (falling ? order(other, one) : order(one, other)));
    body.append(...rows.map((row) => row.element));
    region.scrollTop = 0;
  }

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(column));
    head.append(button);
  });
  // In a narrow window each row is a block of its own, which to browsers is no table any more.
  const roles = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell" };
  for (const part of [table, ...table.querySelectorAll("thead, tbody, tr, td")]) {
    part.setAttribute("role", roles[part.tagName]);
  }
  for (const part of table.querySelectorAll("th")) {
    part.setAttribute("role", part.scope === "col" ? "columnheader" : "rowheader");
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", show);
  form.addEventListener("reset", () => setTimeout(show)); // the fields are empty after the event
  show();
}

if (typeof document !== "undefined") {
  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".encoder-table").forEach(start);
  });
}
if (typeof module !== "undefined") module.exports = { words, matches, passes, compare };
