// What a picture file is, from its bytes: before a browser decodes it. A few hundred bytes can
// stand for gigabytes of pixels, and browsers show half of a file that was cut without a word.

/** A file that cannot be used, with a sentence for the person who chose it. */
export class BadFile extends Error {}

/** Each byte as the character of its number, which TextDecoder's "latin1" does not give. */
function latin1(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 4096) text += String.fromCharCode(...bytes.subarray(at, at + 4096));
  return text;
}

/**
 * Kind and size of a picture: `{kind, width, height, bits}`.
 *
 * @param {Uint8Array} bytes the whole file
 * @param {string} name for messages
 * @throws {BadFile} it is no picture, or not all of one
 */
export function readHeader(bytes, name) {
  if (bytes.length === 0) throw new BadFile(`${name} is empty.`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = latin1(bytes.subarray(0, 1024));
  try {
    for (const [fits, read] of KINDS) {
      if (fits(start)) return checked(read(view, bytes, name), name);
    }
  } catch (error) {
    if (error instanceof RangeError) throw cut(name); // a number behind the end of the file
    throw error;
  }
  if (/^%PDF/.test(start)) throw new BadFile(`${name} is a PDF document. Save the page you mean as a PNG.`);
  if (/^\s*(<\?xml|<!--|<!doctype svg|<svg)/i.test(start) && /<svg/i.test(latin1(bytes.subarray(0, 1 << 16)))) {
    throw new BadFile(`${name} is an SVG drawing, which has no pixels. Save it as a PNG.`);
  }
  if (/^[\t\n\r\x20-\x7e\x80-\xff]*$/.test(start)) throw new BadFile(`${name} is text, not a picture.`);
  throw new BadFile(`${name} is no picture of a kind that browsers show: PNG, JPEG, WebP, GIF, BMP, AVIF.`);
}

const KINDS = [
  [(start) => start.startsWith("\x89PNG\r\n\x1a\n"), readPng],
  [(start) => start.startsWith("\xff\xd8\xff"), readJpeg],
  [(start) => /^GIF8[79]a/.test(start), readGif],
  [(start) => /^RIFF....WEBP/s.test(start), readWebp],
  [(start) => /^BM.{12}[\x0c\x28\x38\x40\x6c\x7c]\0\0\0/s.test(start), readBmp],
  [(start) => /^....ftyp/s.test(start), readHeif],
  [(start) => start.startsWith("II*\0") || start.startsWith("MM\0*"), refuseTiff],
];

function readPng(view, bytes, name) {
  const facts = { kind: "image/png", width: view.getUint32(16), height: view.getUint32(20), bits: view.getUint8(24) };
  for (let place = 8; ; ) {
    const length = view.getUint32(place);
    const end = place + 12 + length;
    if (end > bytes.length) throw cut(name);
    if (latin1(bytes.subarray(place + 4, place + 8)) === "IEND") return facts;
    place = end;
  }
}

function readJpeg(view, bytes, name) {
  let facts = null;
  for (let place = 2; ; ) {
    if (view.getUint8(place) !== 0xff) throw new BadFile(`${name} is damaged: no marker where one should be.`);
    const marker = view.getUint8(place + 1);
    if (marker === 0xff || marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {
      place += marker === 0xff ? 1 : 2; // filling, or a marker without a length
      continue;
    }
    if (marker === 0xd9) throw cut(name);
    const frame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (frame) {
      const [bits, height, width] = [view.getUint8(place + 4), view.getUint16(place + 5), view.getUint16(place + 7)];
      facts = { kind: "image/jpeg", width, height, bits };
    }
    if (marker === 0xda) {
      if (!facts || !hasEnd(bytes, place)) throw cut(name);
      return facts;
    }
    place += 2 + view.getUint16(place + 2);
  }
}

/** Whether the marker of a JPEG's end comes behind a place; phones put more behind that. */
function hasEnd(bytes, place) {
  for (let at = bytes.length - 2; at > place; at -= 1) {
    if (bytes[at] === 0xff && bytes[at + 1] === 0xd9) return true;
  }
  return false;
}

function readGif(view, bytes, name) {
  let last = bytes.length - 1;
  while (last > 0 && bytes[last] === 0) last -= 1;
  if (bytes[last] !== 0x3b) throw cut(name);
  return { kind: "image/gif", width: view.getUint16(6, true), height: view.getUint16(8, true), bits: 8 };
}

function readWebp(view, bytes, name) {
  if (view.getUint32(4, true) + 8 > bytes.length) throw cut(name);
  const facts = { kind: "image/webp", bits: 8 };
  const form = latin1(bytes.subarray(12, 16));
  if (form === "VP8X") {
    const side = (place) => 1 + view.getUint16(place, true) + (view.getUint8(place + 2) << 16);
    return { ...facts, width: side(24), height: side(27) };
  }
  if (form === "VP8L") {
    const word = view.getUint32(21, true);
    return { ...facts, width: 1 + (word & 0x3fff), height: 1 + ((word >>> 14) & 0x3fff) };
  }
  return { ...facts, width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff };
}

function readBmp(view, bytes, name) {
  const short = view.getUint32(14, true) === 12; // OS/2's first header
  const width = short ? view.getUint16(18, true) : view.getInt32(18, true);
  const height = short ? view.getUint16(20, true) : Math.abs(view.getInt32(22, true));
  if (view.getUint32(2, true) > bytes.length) throw cut(name);
  return { kind: "image/bmp", width, height, bits: 8 };
}

/** AVIF and HEIC: boxes with lengths; the size of each picture in it stands in an `ispe` box. */
function readHeif(view, bytes, name) {
  const heic = /^(hei|hev|mif1|msf1)/.test(latin1(bytes.subarray(8, 12))) && !latin1(bytes.subarray(8, 64)).includes("avif");
  let largest = { width: 0, height: 0 };
  for (let place = 0; place < bytes.length; ) {
    const short = view.getUint32(place) || bytes.length - place;
    const [length, least] = short === 1 ? [Number(view.getBigUint64(place + 8)), 16] : [short, 8];
    if (length < least) throw new BadFile(`${name} is damaged: a box without a length.`);
    const end = place + length;
    if (end > bytes.length) throw cut(name);
    if (latin1(bytes.subarray(place + 4, place + 8)) === "meta") {
      for (const found of latin1(bytes.subarray(place, end)).matchAll(/ispe/g)) {
        const at = place + found.index + 8;
        const size = { width: view.getUint32(at), height: view.getUint32(at + 4) };
        if (size.width * size.height > largest.width * largest.height) largest = size;
      }
    }
    place = end;
  }
  return { kind: heic ? "image/heic" : "image/avif", ...largest, bits: 8 };
}

function refuseTiff(view, bytes, name) {
  throw new BadFile(`${name} is a TIFF file, which browsers do not show. Save it as a PNG, or use segzoo predict.`);
}

function checked(facts, name) {
  if (!(facts.width > 0 && facts.height > 0)) throw new BadFile(`${name} is damaged: it says that it has no pixels.`);
  return facts;
}

function cut(name) {
  return new BadFile(`${name} is not complete: the file was cut off. Copy or download it again.`);
}
