// Searching and sorting the table of encoders. Without JavaScript the table is simply complete.
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

function start(region) {
  const table = region.querySelector("table");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
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

  const search = document.createElement("form");
  search.className = "encoder-search";
  search.setAttribute("role", "search");
  search.innerHTML =
    '<label for="encoder-words">Search names, licences, image sizes and strides</label>' +
    '<input id="encoder-words" type="search" autocomplete="off" spellcheck="false"' +
    ' placeholder="resnet apache 2,4,8,16,32" aria-describedby="encoder-count">' +
    '<p id="encoder-count" aria-live="polite"></p>';
  region.before(search);
  const input = search.querySelector("input");
  const count = search.querySelector("p");

  function show() {
    const wanted = words(input.value);
    let shown = 0;
    for (const row of rows) {
      row.element.hidden = !matches(row, wanted);
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
  }

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(column));
    head.append(button);
  });
  search.addEventListener("submit", (event) => event.preventDefault());
  input.addEventListener("input", show);
  show();
}

if (typeof document !== "undefined") {
  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".encoder-table").forEach(start);
  });
}
if (typeof module !== "undefined") module.exports = { words, matches, compare };
