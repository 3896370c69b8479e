// The model on the first page begins with its example, so that there is something to see.
"use strict";

function begin(frame) {
  const page = frame.contentDocument; // null where the site was opened as a file
  if (!page) return;
  const ready = new MutationObserver(start);
  function start() {
    if (page.body.dataset.ready !== "true" || page.querySelector("#pictures li")) return;
    ready.disconnect();
    page.querySelector("#example-list button")?.click();
  }
  ready.observe(page.body, { attributes: true, attributeFilter: ["data-ready"] });
  start();
}

document.addEventListener("DOMContentLoaded", () => {
  const frame = document.querySelector(".live");
  frame?.addEventListener("load", () => begin(frame));
});
