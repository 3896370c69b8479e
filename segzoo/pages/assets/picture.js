// From a file to pixels: what the model gets are the values that are stored in the file, as in
// segzoo.data.pictures, and no screen's colours of them.

import { BadFile, readHeader } from "./header.js";

/** Pixels that are decoded at once: four bytes each. */
const MOST_PIXELS = 100e6;
/** Bytes of a file that are read at once. */
const MOST_BYTES = 256e6;
/** ITU-R BT.601 in units of 1/65536, the integers that Pillow uses. */
const LUMA = [19595, 38470, 7471];

/**
 * Check a file and decode it, upright: `{bitmap, width, height, kind, bits, bytes, notes}`.
 *
 * @param {File} file
 * @param {object} facts of page.json
 * @throws {BadFile} with a sentence
 */
export async function openPicture(file, facts) {
  const name = file.name || "The picture";
  if (file.size > MOST_BYTES) {
    throw new BadFile(`${name} has ${megabytes(file.size)}; files of up to ${megabytes(MOST_BYTES)} can be used.`);
  }
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new BadFile(`${name} cannot be read. If it is a folder, choose the pictures in it.`);
  }
  const header = readHeader(bytes, name);
  const pixels = header.width * header.height;
  if (pixels > MOST_PIXELS) {
    throw new BadFile(
      `${name} has ${header.width} × ${header.height} pixels, ${megapixels(pixels)}; pictures of up to ` +
        `${megapixels(MOST_PIXELS)} can be used. Make it smaller, or use segzoo predict.`,
    );
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes], { type: header.kind }), {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    const reason = header.kind === "image/heic" ? "this browser does not show HEIC" : "it is damaged, or this browser does not know its kind";
    throw new BadFile(`${name} cannot be decoded: ${reason}. Save it as a JPEG or PNG.`);
  }
  const { kind, bits } = header;
  const notes = facts.engine === "browser" ? lostBits(bits) : [];
  return { bitmap, width: bitmap.width, height: bitmap.height, kind, bits, bytes, notes };
}

function lostBits(bits) {
  return bits > 8 ? [`Of its ${bits} bits a browser shows the upper 8.`] : [];
}

/**
 * What a server gets of a picture: `{bytes, kind, notes}`. It is the file as it is, or all of the
 * picture at a smaller size where it has more pixels or bytes than the server takes.
 *
 * @param {object} picture of openPicture
 * @param {object} facts of page.json
 */
export async function fitted(picture, facts) {
  const mostPixels = facts.max_pixels ?? Infinity;
  const mostBytes = facts.max_bytes ?? Infinity;
  const { bitmap, bytes, kind, bits } = picture;
  if (picture.width * picture.height <= mostPixels && bytes.length <= mostBytes) return { bytes, kind, notes: [] };
  for (let pixels = Math.min(mostPixels, picture.width * picture.height); pixels >= 1; ) {
    const size = modelSize(picture, { max_pixels: pixels });
    const file = await scaledFile(bitmap, size);
    if (file.size <= mostBytes) {
      const limits = [facts.max_pixels && megapixels(mostPixels), facts.max_bytes && megabytes(mostBytes)].filter(Boolean);
      const note = `The server saw it at ${size.width} × ${size.height}: it takes pictures of up to ${limits.join(" and ")}`;
      return { bytes: new Uint8Array(await file.arrayBuffer()), kind: file.type, notes: [...lostBits(bits), note] };
    }
    // Bytes grow about as pixels do; with some to spare the next try mostly is the last.
    pixels = size.width * size.height * Math.min(0.9, (0.9 * mostBytes) / file.size);
  }
  throw new Error(`It cannot be made small enough for the server, which takes files of up to ${megabytes(mostBytes)}.`);
}

/** A picture as a PNG of a size. */
function scaledFile(bitmap, { width, height }) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return canvas.convertToBlob({ type: "image/png" });
}

/** The size that a model sees a picture in: all of it, unless it is too large. */
export function modelSize({ width, height }, facts) {
  if (facts.size) return { width: facts.size[1], height: facts.size[0] };
  const scale = Math.min(1, Math.sqrt(facts.max_pixels / (width * height)));
  const side = (length) => Math.max(1, Math.floor(length * scale));
  return scale === 1 ? { width, height } : { width: side(width), height: side(height) };
}

/** Red, green, blue and opacity of each pixel, 4 bytes each, in a size. */
export function readPixels(bitmap, { width, height }) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data;
  const scaled = width !== bitmap.width || height !== bitmap.height;
  if (scaled || !hasTransparency(pixels)) return pixels;
  return readStored(bitmap) ?? pixels;
}

function hasTransparency(pixels) {
  for (let at = 3; at < pixels.length; at += 4) {
    if (pixels[at] !== 255) return true;
  }
  return false;
}

/**
 * The colours under transparency. A canvas keeps them multiplied by their opacity, so that they are
 * lost; a texture keeps them as they are. Null where there is no WebGL or the picture is too large.
 */
function readStored(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const whole = gl.checkFramebufferStatus(gl.FRAMEBUFFER) === gl.FRAMEBUFFER_COMPLETE;
  const pixels = new Uint8Array(width * height * 4);
  if (whole) gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return whole ? pixels : null;
}

/**
 * Pixels as the model takes them: `(channels, height, width)`, float32, normalised.
 *
 * Each value is one of 256, so that a table has what comes of it, rounded as float32 rounds.
 * Smaller pictures than a model takes get zeros on the right and below.
 */
export function normalized(rgba, { width, height }, facts) {
  const [wide, tall] = [width, height].map((side) => Math.max(side, facts.smallest_side ?? 1));
  const channels = facts.in_channels;
  const input = new Float32Array(channels * wide * tall);
  for (let channel = 0; channel < channels; channel += 1) {
    const [mean, std] = [Math.fround(facts.mean[channel]), Math.fround(facts.std[channel])];
    const table = Float32Array.from({ length: 256 }, (_, value) => Math.fround(Math.fround(value / 255) - mean) / std);
    for (let y = 0, from = 0; y < height; y += 1) {
      let to = (channel * tall + y) * wide;
      for (let x = 0; x < width; x += 1, from += 4, to += 1) {
        input[to] = table[channels === 1 ? luminance(rgba, from) : rgba[from + channel]];
      }
    }
  }
  return { input, shape: [1, channels, tall, wide] };
}

function luminance(rgba, at) {
  return (LUMA[0] * rgba[at] + LUMA[1] * rgba[at + 1] + LUMA[2] * rgba[at + 2] + 0x8000) >> 16;
}

export function megapixels(count) {
  return `${(count / 1e6).toLocaleString("en", { maximumSignificantDigits: 3 })} megapixels`;
}

export function megabytes(count) {
  return `${(count / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })} MB`;
}
