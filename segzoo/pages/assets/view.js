// What is seen of the pictures: thumbnails, the one that is looked at, its legend. Names come from
// strangers: they are text here, never HTML.

import { borderOpacity, countClasses, paintMask } from "./drawing.js";

/** Longest side of a picture's canvas, in its pixels; and of a small one on the screen. */
const SHOWN_SIDE = 2048;
const SMALL_SIDE = 480;
const THUMBNAIL = { width: 132, height: 100 };

const at = (id) => document.getElementById(id);

/** An element with properties and children; a string among them is text. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A row of buttons, one for each picture. */
export class Thumbnails {
  #list = at("pictures");
  #choose;

  /** @param {(item: object) => void} choose called with the picture of the button */
  constructor(choose) {
    this.#choose = choose;
  }

  add(item) {
    const canvas = make("canvas", { ...THUMBNAIL });
    item.button = make("button", { type: "button", className: "working" }, canvas);
    item.button.onclick = () => this.#choose(item);
    item.entry = make("li", {}, item.button);
    this.#list.append(item.entry);
    this.#list.hidden = false;
    this.say(item, "waiting");
  }

  draw(item, bitmap) {
    const { width, height } = THUMBNAIL;
    const scale = Math.max(width / bitmap.width, height / bitmap.height);
    const [wide, tall] = [width / scale, height / scale];
    const context = item.button.querySelector("canvas").getContext("2d");
    context.drawImage(bitmap, (bitmap.width - wide) / 2, (bitmap.height - tall) / 2, wide, tall, 0, 0, width, height);
  }

  say(item, state) {
    item.button.classList.toggle("working", state !== "done");
    item.button.setAttribute("aria-label", state === "done" ? item.name : `${item.name}, ${state}`);
    item.button.title = item.name;
  }

  mark(item) {
    for (const button of this.#list.querySelectorAll("button")) {
      button.setAttribute("aria-current", String(button === item.button));
    }
  }

  remove(item) {
    item.entry.remove();
    this.#list.hidden = this.#list.childElementCount === 0;
  }
}

/** The picture with its mask, and the legend. */
export class Stage {
  #facts;
  #colors;
  #mask = null;
  /** Which classes are tinted: not the first, which in most sets of classes is the background. */
  shown;

  constructor(facts, colors) {
    this.#facts = facts;
    this.#colors = colors;
    this.shown = colors.map((_, index) => index > 0);
    at("opacity").oninput = () => this.#setOpacity();
    this.#setOpacity();
  }

  get opacity() {
    return at("opacity").valueAsNumber / 100;
  }

  #setOpacity() {
    at("tint").style.opacity = this.opacity;
    at("borders").style.opacity = borderOpacity(this.opacity);
    at("opacity-value").textContent = `${at("opacity").value} %`;
  }

  show(item, bitmap) {
    const scale = Math.min(1, SHOWN_SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = at("picture");
    Object.assign(canvas, { width: Math.max(1, bitmap.width * scale), height: Math.max(1, bitmap.height * scale) });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const enlarged = SMALL_SIDE / Math.max(bitmap.width, bitmap.height);
    canvas.style.width = enlarged > 1 ? `${Math.round(bitmap.width * enlarged)}px` : "";
    canvas.setAttribute("aria-label", `The picture ${item.name} with its mask. ${item.summary}`);
    at("caption").textContent = [`${item.name}, ${bitmap.width} × ${bitmap.height}`, ...item.notes].join(". ");
    this.#mask = item.mask;
    this.#paint();
    this.#writeLegend();
    at("result").hidden = false;
  }

  hide() {
    at("result").hidden = true;
    this.#mask = null;
  }

  #paint() {
    paintMask(at("tint"), this.#mask, this.#colors, this.shown, false);
    paintMask(at("borders"), this.#mask, this.#colors, this.shown, true);
  }

  #writeLegend() {
    const shares = sharesOf(this.#mask, this.#facts.classes.length);
    const present = shares.flatMap((share, index) => (share > 0 ? [index] : []));
    present.sort((a, b) => shares[b] - shares[a]);
    const absent = shares.flatMap((share, index) => (share > 0 ? [] : [index]));
    at("legend").replaceChildren(...present.map((index) => this.#row(index, shares[index])));
    at("absent").hidden = absent.length === 0;
    at("absent").querySelector("summary").textContent = `${absent.length} not in this picture`;
    at("absent-list").replaceChildren(...absent.map((index) => this.#row(index, 0)));
    const first = this.#facts.classes[0].name;
    at("explain").textContent =
      `${first}, the first class (0), is not tinted until you tick it: in most models that class is ` +
      "the background. Shares are of the picture's pixels.";
  }

  #row(index, share) {
    const { name, color } = this.#facts.classes[index];
    const box = make("input", { type: "checkbox", checked: this.shown[index] });
    box.onchange = () => {
      this.shown[index] = box.checked;
      this.#paint();
    };
    const swatch = make("span", { className: "swatch" });
    swatch.style.backgroundColor = color; // set by script, which the page's policy allows
    const label = make("label", {}, box, swatch, make("span", { className: "name" }, name), make("span", { className: "share" }, percent(share)));
    return make("li", {}, label);
  }
}

/** The share of the pixels that each class has, 0 to 1. */
export function sharesOf(mask, classes) {
  return countClasses(mask.labels, classes).map((count) => count / mask.labels.length);
}

/** What a mask shows, for people who listen: the largest classes. */
export function summarize(mask, classes) {
  const shares = sharesOf(mask, classes.length);
  const largest = shares.map((share, index) => [share, classes[index].name]).filter(([share]) => share > 0);
  largest.sort((a, b) => b[0] - a[0]);
  const listed = largest.slice(0, 5).map(([share, name]) => `${name} ${percent(share)}`);
  const more = largest.length - listed.length;
  return `${listed.join(", ")}${more > 0 ? `, and ${more} more` : ""}.`;
}

export function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}
