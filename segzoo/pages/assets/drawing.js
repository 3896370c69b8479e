// Masks as colours: the same as segzoo.data.drawing draws, with a choice of what is tinted.

/** Red, green and blue of `#rrggbb`. */
export function rgbOf(color) {
  return [1, 3, 5].map((place) => parseInt(color.slice(place, place + 2), 16));
}

/** How many pixels each class has. */
export function countClasses(labels, classes) {
  const counts = new Array(classes).fill(0);
  for (const label of labels) counts[label] += 1;
  return counts;
}

/**
 * The colours of a mask on a canvas; classes that are not shown are left clear.
 *
 * @param {boolean} bordersOnly only pixels with a neighbour of another class
 */
export function paintMask(canvas, mask, colors, shown, bordersOnly) {
  const { width, height, labels } = mask;
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const words = new Uint32Array(image.data.buffer);
  const table = colors.map(([red, green, blue], index) => (shown[index] ? (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0 : 0));
  for (let at = 0; at < labels.length; at += 1) {
    if (!bordersOnly || onBorder(mask, at)) words[at] = table[labels[at]];
  }
  context.putImageData(image, 0, 0);
}

/** Whether a pixel has a neighbour of another class to the left, right, above or below. */
function onBorder({ width, labels }, at) {
  const column = at % width;
  const own = labels[at];
  return (
    (column > 0 && labels[at - 1] !== own) ||
    (column < width - 1 && labels[at + 1] !== own) ||
    (at >= width && labels[at - width] !== own) ||
    (at + width < labels.length && labels[at + width] !== own)
  );
}

/** Opacity of the borders beside that of the tint: drawn in full from 40 % on. */
export function borderOpacity(opacity) {
  return Math.min(1, opacity * 2.5);
}

/** A mask in the size of its picture: each pixel has the class of the nearest. */
export function enlarged(mask, { width, height }) {
  if (mask.width === width && mask.height === height) return mask;
  const labels = new mask.labels.constructor(width * height);
  const columns = Uint32Array.from({ length: width }, (_, x) => Math.floor(((x + 0.5) * mask.width) / width));
  for (let y = 0, to = 0; y < height; y += 1) {
    const row = Math.floor(((y + 0.5) * mask.height) / height) * mask.width;
    for (let x = 0; x < width; x += 1, to += 1) labels[to] = mask.labels[row + columns[x]];
  }
  return { width, height, labels };
}

/** A picture with its mask laid over it, as a PNG. */
export async function overlay(bitmap, mask, colors, shown, opacity) {
  const { width, height } = bitmap;
  const full = enlarged(mask, bitmap);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const image = context.getImageData(0, 0, width, height);
  const strong = borderOpacity(opacity);
  for (let at = 0; at < full.labels.length; at += 1) {
    const label = full.labels[at];
    if (!shown[label]) continue;
    const weight = onBorder(full, at) ? strong : opacity;
    for (let band = 0; band < 3; band += 1) {
      const value = image.data[4 * at + band];
      image.data[4 * at + band] = value + weight * (colors[label][band] - value); // rounded when stored
    }
  }
  context.putImageData(image, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
