// PNG files whose values are numbers of classes. A canvas knows colours only: of a palette it would
// give the colours, and of 16 bits the upper eight.

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const GREY = 0;
const PALETTE = 3;

/**
 * The numbers in a PNG of up to 16 bits, grey or with a palette: `{width, height, labels}`.
 *
 * @param {ArrayBuffer} buffer
 */
export async function readMask(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  if (!SIGNATURE.every((value, index) => bytes[index] === value)) throw new Error("The answer is no PNG.");
  const width = view.getUint32(16);
  const height = view.getUint32(20);
  const [bits, kind, , , interlaced] = bytes.subarray(24, 29);
  if (![1, 2, 4, 8, 16].includes(bits) || ![GREY, PALETTE].includes(kind) || interlaced) {
    throw new Error("The answer is no mask: expected a PNG with one number for each pixel, or a palette.");
  }
  const parts = [];
  for (let place = 8; place + 12 <= bytes.length; ) {
    const length = view.getUint32(place);
    const name = String.fromCharCode(...bytes.subarray(place + 4, place + 8));
    if (name === "IDAT") parts.push(bytes.subarray(place + 8, place + 8 + length));
    place += 12 + length;
  }
  const length = Math.ceil((width * bits) / 8);
  const rows = await through(new DecompressionStream("deflate"), parts);
  if (rows.length !== (length + 1) * height) throw new Error("The answer is a mask that was cut off.");
  const plain = unfiltered(rows, length, height, Math.max(1, bits / 8));
  return { width, height, labels: bits === 8 ? plain : unpacked(plain, width, height, bits) };
}

/** Numbers of 1, 2 or 4 bits, the first in the highest, or of 16, the high byte first. */
function unpacked(plain, width, height, bits) {
  const labels = bits === 16 ? new Uint16Array(width * height) : new Uint8Array(width * height);
  const length = Math.ceil((width * bits) / 8);
  for (let y = 0, to = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, to += 1) {
      const at = y * length + ((x * bits) >> 3);
      if (bits === 16) labels[to] = (plain[at] << 8) | plain[at + 1];
      else labels[to] = (plain[at] >> (8 - bits - ((x * bits) & 7))) & ((1 << bits) - 1);
    }
  }
  return labels;
}

/**
 * A PNG of numbers: with a palette of the classes' colours, or 16 bits grey above 256 classes.
 *
 * @param {{width: number, height: number, labels: Uint8Array | Uint16Array}} mask
 * @param {number[][]} colors red, green and blue of each class
 * @returns {Promise<Blob>}
 */
export async function writeMask({ width, height, labels }, colors) {
  const wide = colors.length > 256;
  const size = wide ? 2 : 1;
  const rows = new Uint8Array((width * size + 1) * height); // each row begins with its filter: 0
  for (let y = 0, from = 0; y < height; y += 1) {
    let to = y * (width * size + 1) + 1;
    for (let x = 0; x < width; x += 1, from += 1) {
      if (wide) rows[to++] = labels[from] >> 8;
      rows[to++] = labels[from] & 0xff;
    }
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8 * size, wide ? GREY : PALETTE], 8);
  const data = await through(new CompressionStream("deflate"), [rows]);
  const palette = wide ? [] : [chunk("PLTE", Uint8Array.from(colors.flat()))];
  const parts = [Uint8Array.from(SIGNATURE), chunk("IHDR", header), ...palette, chunk("IDAT", data), chunk("IEND", new Uint8Array())];
  return new Blob(parts, { type: "image/png" });
}

async function through(stream, parts) {
  return new Uint8Array(await new Response(new Blob(parts).stream().pipeThrough(stream)).arrayBuffer());
}

/** Rows of a PNG as they were before they were filtered (PNG specification, "Filtering"). */
function unfiltered(rows, length, height, step) {
  const plain = new Uint8Array(length * height);
  for (let y = 0; y < height; y += 1) {
    const filter = rows[y * (length + 1)];
    if (filter > 4) throw new Error("The answer is a damaged PNG.");
    for (let x = 0; x < length; x += 1) {
      const at = y * length + x;
      const left = x >= step ? plain[at - step] : 0;
      const up = y ? plain[at - length] : 0;
      const corner = x >= step && y ? plain[at - length - step] : 0;
      const guess = [0, left, up, (left + up) >> 1, filter === 4 ? paeth(left, up, corner) : 0][filter];
      plain[at] = rows[y * (length + 1) + 1 + x] + guess;
    }
  }
  return plain;
}

function paeth(left, up, corner) {
  const sum = left + up - corner;
  const [a, b, c] = [Math.abs(sum - left), Math.abs(sum - up), Math.abs(sum - corner)];
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

const CRC = Uint32Array.from({ length: 256 }, (_, start) => {
  let value = start;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function chunk(name, data) {
  const bytes = new Uint8Array(data.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set([...name].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(data, 8);
  let crc = 0xffffffff;
  for (let at = 4; at < data.length + 8; at += 1) crc = CRC[(crc ^ bytes[at]) & 0xff] ^ (crc >>> 8);
  view.setUint32(data.length + 8, (crc ^ 0xffffffff) >>> 0);
  return bytes;
}
