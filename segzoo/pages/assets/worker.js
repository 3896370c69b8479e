// The model in a thread of its own, so that the page stays awake: ONNX Runtime Web runs the file
// that segzoo.export wrote.

import { normalized } from "./picture.js";

/** How much a computed logit may differ from the stored one, as a part of the largest. */
const TOLERANCE = 1e-2;
/** Threads that are of use at most; each has memory of its own. */
const MOST_THREADS = 8;

let facts;
let base;
let session;
let runtime;
let device;

self.onmessage = async ({ data }) => {
  try {
    if (data.type === "load") {
      ({ facts, base } = data);
      await load();
      self.postMessage({ type: "ready", how: how() });
    } else {
      const mask = await segment(data);
      self.postMessage({ type: "mask", id: data.id, ...mask, how: how() }, [mask.labels.buffer]);
    }
  } catch (error) {
    self.postMessage({ type: "error", id: data.id, message: sentence(error) });
  }
};

/** The graphics card where there is one whose answers are right, else the processor. */
async function load() {
  if (facts.runtime.webgpu && (await hasGraphicsCard())) {
    try {
      return await open("webgpu");
    } catch (error) {
      console.info(`WebGPU is not used: ${sentence(error)}`);
    }
  }
  return open("wasm");
}

async function hasGraphicsCard() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

async function open(kind) {
  const files = facts.runtime[kind];
  const [model, wasm] = await fetchAll([facts.model, files.wasm]);
  session = null;
  runtime = await import(new URL(files.main.src, base));
  runtime.env.logLevel = "error";
  runtime.env.wasm.numThreads = threads();
  runtime.env.wasm.wasmPaths = { mjs: new URL(files.loader.src, base).href };
  runtime.env.wasm.wasmBinary = wasm.buffer;
  session = await runtime.InferenceSession.create(model, { executionProviders: [kind], logSeverityLevel: 3 });
  device = kind;
  await compare();
}

/** Threads share memory, which browsers allow only on pages that are isolated by two headers. */
function threads() {
  return self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
}

function how() {
  if (device === "webgpu") return "WebGPU";
  return threads() > 1 ? `WebAssembly, ${threads()} threads` : "WebAssembly, 1 thread";
}

/** Files as bytes, with one progress for all of them; an answer may be compressed on its way. */
async function fetchAll(files) {
  const total = files.reduce((sum, file) => sum + file.bytes, 0);
  let loaded = 0;
  return Promise.all(
    files.map(async (file) => {
      const name = file.src.split("?")[0];
      const response = await fetch(new URL(file.src, base));
      if (!response.ok) throw new Error(`${name} cannot be loaded: the server answered ${response.status}.`);
      const bytes = new Uint8Array(file.bytes);
      let place = 0;
      for (const reader = response.body.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        if (place + value.length > bytes.length) throw new Error(`${name} is larger than when the page was made.`);
        bytes.set(value, place);
        place += value.length;
        loaded += value.length;
        self.postMessage({ type: "progress", loaded, total });
      }
      if (place < bytes.length) throw new Error(`${name} was cut off. Load the page again.`);
      return bytes;
    }),
  );
}

/** Raise where the answer to the question in page.json is not the one that the model gave. */
async function compare() {
  const { shape, places, logits } = facts.check;
  const count = shape.reduce((product, side) => product * side, 1);
  const image = Float32Array.from({ length: count }, (_, index) => question(index));
  const found = await run(image, shape);
  const largest = Math.max(...logits.map(Math.abs));
  const gap = Math.max(...places.map((place, index) => Math.abs(found.data[place] - logits[index])));
  found.dispose();
  if (!(gap <= TOLERANCE * largest)) {
    throw new Error(`The answers of ${how()} in this browser differ from the model's by ${gap.toPrecision(2)}, of ${largest.toPrecision(2)}.`);
  }
}

/** Numbers from -1 to 1 that look like chance, the same in every language: see segzoo.pages.write_page. */
function question(index) {
  return (Math.imul(index + 1, 0x9e3779b1) >>> 8) / 2 ** 23 - 1;
}

async function run(input, shape) {
  const image = new runtime.Tensor("float32", input, shape);
  const { logits } = await session.run({ image });
  return logits;
}

async function segment({ rgba, width, height }) {
  const { input, shape } = normalized(rgba, { width, height }, facts);
  let logits;
  try {
    logits = await run(input, shape);
  } catch (error) {
    if (device !== "webgpu") throw error;
    await open("wasm"); // a graphics card may have too little memory, or be taken away
    logits = await run(input, shape);
  }
  const labels = classes(logits.data, logits.dims, width, height);
  logits.dispose();
  return { width, height, labels };
}

/** The class of each pixel: the largest logit, the first of equal ones. */
function classes(data, [, count, tall, wide], width, height) {
  const labels = count > 256 ? new Uint16Array(width * height) : new Uint8Array(width * height);
  const plane = tall * wide;
  for (let y = 0, to = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, to += 1) {
      const at = y * wide + x;
      if (count === 1) {
        labels[to] = data[at] > facts.threshold ? 1 : 0;
        continue;
      }
      let best = 0;
      for (let index = 1; index < count; index += 1) {
        if (data[index * plane + at] > data[best * plane + at]) best = index;
      }
      labels[to] = best;
    }
  }
  return labels;
}

function sentence(error) {
  const text = String(error?.message ?? error).split("\n")[0];
  const memory = /memory|allocat|bad_alloc|\bOOM\b/i.test(text) || typeof error === "number";
  return memory ? "There is not enough memory in the browser for this picture. Use a smaller one." : text;
}
