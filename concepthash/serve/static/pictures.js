// Pictures as the model sees them, and where a concept looks in them.

import { ask, load } from "./api.js";
import { make } from "./dom.js";
import { paint } from "./heat.js";

const KEPT = 400;
const AT_ONCE = 3;

/** Something with a picture: an image of the gallery. */
export const item = (id, name) => ({
  key: `item ${id}`,
  name,
  path: (size) => `v1/items/${id}/thumbnail?size=${size}&view=crop`,
  request: () => ({ id }),
});

/** A photo of the user's; its `url` shows the square the model sees, null if it cannot be drawn. */
export const photo = (number, file, url) => ({
  key: `photo ${number}`,
  name: file.name,
  url,
  file,
  request: () => {
    const form = new FormData();
    form.append("image", file);
    return form;
  },
});

/** The centre of a photo that the model sees, as the URL of a picture; null if this browser cannot
 * read it, though the server may. */
export async function cropped(file, { resize, side }) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return null;
  }
  const width = (Math.min(bitmap.width, bitmap.height) * side) / resize;
  const shown = Math.min(Math.round(width), 512);
  const canvas = make("canvas", { width: shown, height: shown });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, shown, shown);
  const [left, top] = [(bitmap.width - width) / 2, (bitmap.height - width) / 2];
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, left, top, width, width, 0, 0, shown, shown);
  bitmap.close();
  const blob = await new Promise((done) => canvas.toBlob(done));
  return blob && URL.createObjectURL(blob);
}

const explanations = new Map();
const queue = [];
let running = 0;

function next() {
  while (running < AT_ONCE && queue.length) {
    const { subject, done } = queue.pop(); // the one that was pointed at last comes first
    running += 1;
    done(ask("v1/explain", { body: subject.request() }));
  }
}

/** Maps, bits and margins of a picture's concepts, asked for once. */
export function explain(subject) {
  const { key } = subject;
  let answer = explanations.get(key);
  if (!answer) {
    answer = new Promise((done) => queue.push({ subject, done }))
      .finally(() => {
        running -= 1;
        next();
      })
      .then((told) => told.image);
    answer.catch(() => explanations.delete(key));
    next();
  }
  explanations.delete(key); // the oldest are forgotten first
  explanations.set(key, answer);
  if (explanations.size > KEPT) explanations.delete(explanations.keys().next().value);
  return answer;
}

/** A square picture over which the map of a concept can lie. */
export class Picture {
  #heat = make("canvas", { class: "heat", hidden: true, "aria-hidden": "true" });
  #subject;
  #stops;
  #looking = null;

  /** `failed` is called with the error if its maps cannot be had. */
  constructor(subject, size, stops, failed = () => {}) {
    this.#subject = subject;
    this.#stops = stops;
    this.failed = failed;
    this.element = make("span", { class: "picture" }, this.#photo(size), this.#heat);
  }

  #photo(size) {
    const { name, url, path } = this.#subject;
    if (!url && !path) return make("span", { class: "gone" }, "no preview");
    const image = make("img", { alt: name, width: size, height: size, draggable: "false" });
    image.addEventListener("error", () => {
      image.replaceWith(make("span", { class: "gone" }, "the file cannot be shown"));
    });
    if (url) image.src = url;
    else load(image, path(size));
    return image;
  }

  /** Shows where a concept looks; null shows the picture alone. */
  async look(concept) {
    if (concept === this.#looking) return;
    this.#looking = concept;
    if (concept === null || !this.#subject.request) {
      paint(this.#heat, null);
      return;
    }
    try {
      const { concepts } = await explain(this.#subject);
      if (this.#looking === concept) paint(this.#heat, concepts[concept].map, this.#stops);
    } catch (error) {
      if (this.#looking === concept) this.#looking = null;
      this.failed(error);
    }
  }
}
