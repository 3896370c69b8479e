// The page: pictures come in, wait for their turn, and are looked at.

import { hasCamera, takePicture } from "./camera.js";
import { enlarged, overlay, rgbOf } from "./drawing.js";
import { openEngine } from "./engine.js";
import { BadFile } from "./header.js";
import { megabytes, modelSize, openPicture } from "./picture.js";
import { writeMask } from "./png.js";
import { Stage, Thumbnails, make, summarize } from "./view.js";

const at = (id) => document.getElementById(id);
const say = (text) => (at("status").textContent = text);

class App {
  #facts;
  #engine;
  #colors;
  #stage;
  #thumbnails;
  #items = [];
  #current = null;
  #wanted = null;
  #busy = false;
  #failed = false;
  #shots = 0;

  constructor(facts) {
    this.#facts = facts;
    this.#colors = facts.classes.map(({ color }) => rgbOf(color));
    this.#stage = new Stage(facts, this.#colors);
    this.#thumbnails = new Thumbnails((item) => this.#look(item));
    this.#introduce();
    this.#listen();
    this.#engine = openEngine(facts, (loaded, total) => this.#progress(loaded, total));
    this.#engine.ready.then(
      () => this.#ready(),
      (error) => this.#broken(error),
    );
  }

  #introduce() {
    const { title, about, engine, segzoo } = this.#facts;
    document.title = title;
    at("title").textContent = title;
    at("about").textContent = about;
    at("privacy").textContent =
      engine === "server"
        ? "Pictures are sent to the server of this page, which does not keep them."
        : "The model runs in this browser: your pictures do not leave this device.";
    at("made").textContent = `Made with segzoo ${segzoo}.`;
    say(engine === "server" ? "Choose a picture." : "Loading the model …");
  }

  #progress(loaded, total) {
    const bar = at("progress");
    bar.hidden = false;
    bar.value = loaded / total;
    const text = `${megabytes(loaded)} of ${megabytes(total)}`;
    bar.setAttribute("aria-valuetext", text);
    bar.title = text;
    // For people who listen the status would be read out at each step, so it says it by eighths.
    const step = Math.floor((8 * loaded) / total);
    if (step !== this.step) say(loaded < total ? `Loading the model: ${text} …` : "Preparing the model …");
    this.step = step;
  }

  #ready() {
    at("progress").hidden = true;
    document.body.dataset.ready = "true";
    at("made").textContent = `Made with segzoo ${this.#facts.segzoo}. Computed with ${this.#engine.how}.`;
    if (this.#items.length === 0) say("Ready: choose a picture.");
    this.#work();
  }

  #broken(error) {
    this.#failed = true;
    at("progress").hidden = true;
    say("");
    this.#complain(`The model cannot be used here. ${error.message}`);
  }

  #listen() {
    at("choose").onclick = () => at("files").click();
    at("files").onchange = () => {
      this.#add([...at("files").files]);
      at("files").value = ""; // so that the same file can be chosen again
    };
    at("clear").onclick = () => this.#clear();
    at("save-mask").onclick = () => this.#save("mask");
    at("save-overlay").onclick = () => this.#save("overlay");
    at("camera").hidden = !hasCamera();
    at("camera").onclick = () => this.#photograph();
    document.ondragover = (event) => {
      event.preventDefault();
      document.body.classList.add("dropping");
    };
    document.ondragleave = (event) => event.relatedTarget || document.body.classList.remove("dropping");
    document.ondrop = (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
      this.#add([...event.dataTransfer.files]);
    };
    document.onpaste = (event) => this.#add([...event.clipboardData.files]);
    at("examples").hidden = this.#facts.examples.length === 0;
    at("example-list").append(...this.#facts.examples.map((address) => this.#exampleButton(address)));
  }

  #exampleButton(address) {
    const name = decodeURIComponent(address.split("/").pop());
    const button = make("button", { type: "button" }, name);
    button.onclick = async () => {
      try {
        const response = await fetch(address);
        if (!response.ok) throw new Error(String(response.status));
        this.#add([new File([await response.blob()], name)]);
      } catch {
        this.#complain(`${name} cannot be loaded.`);
      }
    };
    return button;
  }

  async #photograph() {
    try {
      const file = await takePicture((this.#shots += 1));
      if (file) this.#add([file]);
    } catch (error) {
      this.#complain(error.message);
    }
  }

  #add(files) {
    if (this.#failed || files.length === 0) return;
    at("messages").replaceChildren();
    for (const file of files) {
      const item = { file, name: file.name || "picture", mask: null, notes: [], summary: "" };
      this.#items.push(item);
      this.#thumbnails.add(item);
    }
    at("clear").hidden = false;
    this.#work();
  }

  /** Do what waits, one after the other: two at once would need the memory of both. */
  async #work() {
    if (this.#busy || !document.body.dataset.ready) return;
    this.#busy = true;
    const isWaiting = (item) => !item.mask;
    for (let item; (item = this.#items.find(isWaiting)); ) await this.#segment(item);
    this.#busy = false;
  }

  async #segment(item) {
    say(`Segmenting ${item.name} …`);
    this.#thumbnails.say(item, "being segmented");
    let picture;
    try {
      picture = await openPicture(item.file, this.#facts);
      this.#thumbnails.draw(item, picture.bitmap);
      item.mask = await this.#engine.segment(picture);
      item.notes = [...picture.notes, ...this.#scaled(picture)];
      item.summary = summarize(item.mask, this.#facts.classes);
      this.#thumbnails.say(item, "done");
      at("made").textContent = `Made with segzoo ${this.#facts.segzoo}. Computed with ${this.#engine.how}.`;
      if (this.#items.includes(item)) {
        say(`${item.name}: ${item.summary}`);
        await this.#look(item, picture.bitmap);
      }
    } catch (error) {
      this.#drop(item);
      say("");
      this.#complain(error instanceof BadFile ? error.message : `${item.name}: ${error.message}`);
    } finally {
      picture?.bitmap.close();
    }
  }

  #scaled(picture) {
    if (this.#facts.engine === "server") return [];
    const { width, height } = modelSize(picture, this.#facts);
    if (width === picture.width && height === picture.height) return [];
    return [`The model saw it at ${width} × ${height}: scaled, so that this browser has memory and time for it`];
  }

  async #look(item, bitmap = null) {
    if (!item.mask) return;
    this.#wanted = item;
    let opened = bitmap;
    try {
      opened ??= (await openPicture(item.file, this.#facts)).bitmap;
    } catch (error) {
      return this.#complain(error.message); // the file was changed or removed meanwhile
    }
    if (this.#wanted === item) {
      // else another one was chosen meanwhile, or it was removed
      this.#current = item;
      this.#thumbnails.mark(item);
      this.#stage.show(item, opened);
    }
    if (!bitmap) opened.close();
  }

  async #save(kind) {
    const item = this.#current;
    const stem = item.name.replace(/\.[^.]*$/, "");
    try {
      const { bitmap } = await openPicture(item.file, this.#facts);
      const file =
        kind === "mask"
          ? await writeMask(enlarged(item.mask, bitmap), this.#colors)
          : await overlay(bitmap, item.mask, this.#colors, this.#stage.shown, this.#stage.opacity);
      bitmap.close();
      const link = make("a", { href: URL.createObjectURL(file), download: `${stem}_${kind}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    } catch (error) {
      this.#complain(`The ${kind} could not be made. ${error.message}`);
    }
  }

  #drop(item) {
    this.#items = this.#items.filter((other) => other !== item);
    if (this.#wanted === item) this.#wanted = null;
    this.#thumbnails.remove(item);
    at("clear").hidden = this.#items.length === 0;
  }

  #clear() {
    for (const item of [...this.#items]) this.#drop(item);
    this.#current = null;
    this.#stage.hide();
    at("messages").replaceChildren();
    say("Ready: choose a picture.");
    at("choose").focus();
  }

  #complain(text) {
    at("messages").append(make("li", { className: "message", role: "alert" }, text));
  }
}

try {
  const response = await fetch("page.json", { cache: "no-store" });
  if (!response.ok) throw new Error(`The server answered with status ${response.status}.`);
  new App(await response.json());
} catch (error) {
  say("");
  at("messages").append(make("li", { className: "message", role: "alert" }, `This page is not complete: page.json cannot be read. ${error.message}`));
}
