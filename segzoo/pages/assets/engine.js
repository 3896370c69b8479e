// Where the mask of a picture comes from: a model in this browser, or one on a server.

import { fitted, modelSize, readPixels } from "./picture.js";
import { readMask } from "./png.js";

/**
 * Both have `segment(picture)`, which gives `{width, height, labels}`, and `ready`, a promise.
 *
 * @param {object} facts of page.json
 * @param {(loaded: number, total: number) => void} onProgress bytes of the model's files
 */
export function openEngine(facts, onProgress) {
  return facts.engine === "server" ? new ServerEngine(facts) : new BrowserEngine(facts, onProgress);
}

class BrowserEngine {
  #facts;
  #worker;
  #waiting = new Map();
  #count = 0;

  constructor(facts, onProgress) {
    this.#facts = facts;
    this.how = "";
    this.#worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.ready = new Promise((resolve, reject) => {
      this.#worker.onerror = (event) => {
        event.preventDefault?.();
        reject(new Error("The model's thread could not be started. Load the page again, or use a newer browser."));
      };
      this.#worker.onmessage = ({ data }) => {
        if (data.how) this.how = data.how;
        if (data.type === "progress") onProgress(data.loaded, data.total);
        else if (data.type === "ready") resolve();
        else if (data.id === undefined) reject(new Error(data.message));
        else this.#answer(data);
      };
    });
    this.#worker.postMessage({ type: "load", facts, base: document.baseURI });
  }

  #answer(data) {
    const { resolve, reject } = this.#waiting.get(data.id);
    this.#waiting.delete(data.id);
    if (data.type === "mask") resolve({ width: data.width, height: data.height, labels: data.labels });
    else reject(new Error(data.message));
  }

  async segment(picture) {
    await this.ready;
    const size = modelSize(picture, this.#facts);
    const rgba = readPixels(picture.bitmap, size);
    const id = (this.#count += 1);
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ type: "segment", id, rgba, ...size }, [rgba.buffer]);
    });
  }
}

class ServerEngine {
  #facts;

  constructor(facts) {
    this.#facts = facts;
    this.how = "a model on the server";
    this.ready = Promise.resolve();
  }

  async segment(picture) {
    const address = new URL(this.#facts.segment, document.baseURI);
    address.searchParams.set("format", "mask");
    const { bytes, kind, notes } = await fitted(picture, this.#facts);
    picture.notes.push(...notes);
    let response;
    try {
      response = await fetch(address, { method: "POST", body: bytes, headers: { "Content-Type": kind } });
    } catch {
      throw new Error("The server cannot be reached. Try again in a while.");
    }
    if (!response.ok) throw new Error(await reason(response));
    return readMask(await response.arrayBuffer());
  }
}

async function reason(response) {
  try {
    const { error } = await response.json();
    if (typeof error === "string" && error) return error;
  } catch {
    // no JSON: a proxy's page, say
  }
  return `The server answered with status ${response.status}. Try again in a while.`;
}
