// Concept maps laid over pictures, with the scale and strength of the package's own figures.

const SIDE = 128;
const STRONGEST = 0.8;

/** A map `h x w` at `SIDE x SIDE` points, bilinear; the centre of a cell keeps its value. */
function smooth(map) {
  const place = (at, cells) => {
    const x = Math.min(Math.max(((at + 0.5) * cells) / SIDE - 0.5, 0), cells - 1);
    const low = Math.floor(x);
    return [low, Math.min(low + 1, cells - 1), x - low];
  };
  const values = new Float32Array(SIDE * SIDE);
  for (let y = 0; y < SIDE; y += 1) {
    const [top, bottom, down] = place(y, map.length);
    for (let x = 0; x < SIDE; x += 1) {
      const [left, right, across] = place(x, map[0].length);
      const above = map[top][left] * (1 - across) + map[top][right] * across;
      const below = map[bottom][left] * (1 - across) + map[bottom][right] * across;
      values[y * SIDE + x] = above * (1 - down) + below * down;
    }
  }
  return values;
}

/** Draws a map of values from 0 to 1 on a canvas; null wipes it. */
export function paint(canvas, map, stops) {
  canvas.hidden = map === null;
  if (map === null) return;
  canvas.width = SIDE;
  canvas.height = SIDE;
  const context = canvas.getContext("2d");
  const image = context.createImageData(SIDE, SIDE);
  smooth(map).forEach((value, place) => {
    const at = Math.min(Math.max(value, 0), 1) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    for (let channel = 0; channel < 3; channel += 1) {
      const from = stops[low][channel];
      image.data[4 * place + channel] = from + (stops[low + 1][channel] - from) * (at - low);
    }
    image.data[4 * place + 3] = 255 * STRONGEST * Math.min(value, 1);
  });
  context.putImageData(image, 0, 0);
}

/** The scale as a CSS background. */
export const gradient = (stops) =>
  `linear-gradient(to right, ${stops.map((stop) => `rgb(${stop.join(",")})`).join(",")})`;
