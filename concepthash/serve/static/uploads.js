// Photos of the user's: chosen, dropped or pasted; hashed, and kept as long as "back" may want them.

import { ask } from "./api.js";
import { by } from "./dom.js";
import { say, tell } from "./notices.js";
import { cropped, photo } from "./pictures.js";

const KEPT = 8;
const photos = new Map();
let last = 0;

/** The photo of a number, `{code, subject}`; undefined after a reload, or after many others. */
export const sent = (number) => photos.get(number);

/** Hashes a photo and keeps it: its number and code; null, and the reason told, if it cannot be. */
export async function send(file, info, signal) {
  if (file.type && !file.type.startsWith("image/")) {
    tell(`${file.name} is not an image.`, "Choose a JPEG, PNG or WebP file.");
    return null;
  }
  if (file.size > info.limits.upload_bytes) {
    const most = `${Math.floor(info.limits.upload_bytes / 2 ** 20)} MB`;
    tell(`${file.name} is larger than the server takes.`, `Choose one of at most ${most}.`);
    return null;
  }
  say(`Looking at ${file.name} …`);
  const form = new FormData();
  form.append("image", file);
  const { code } = await ask("v1/hash", { body: form, signal });
  const number = (last += 1);
  photos.set(number, { code, subject: photo(number, file, await cropped(file, info)) });
  if (photos.size > KEPT) {
    const [oldest, { subject }] = photos.entries().next().value;
    if (subject.url) URL.revokeObjectURL(subject.url);
    photos.delete(oldest);
  }
  return { number, code };
}

/** Calls `take` with each photo that is chosen, dropped or pasted while `ready()`. */
export function receive(take, ready) {
  const first = (files) => {
    if (files?.length && ready()) take(files[0]);
  };
  for (const id of ["file", "camera"]) {
    by(id).addEventListener("change", ({ target }) => {
      first([...target.files]);
      target.value = ""; // the same file may be chosen again
    });
  }
  const drop = by("drop");
  const carries = (event) => event.dataTransfer?.types.includes("Files") && ready();
  document.addEventListener("dragenter", (event) => {
    if (carries(event)) drop.hidden = false;
  });
  document.addEventListener("dragover", (event) => {
    if (carries(event)) event.preventDefault();
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) drop.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    drop.hidden = true;
    if (!carries(event)) return;
    event.preventDefault();
    first(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => first(event.clipboardData?.files));
}
