// Photos of the user's: chosen, dropped or pasted; hashed, and kept as long as "back" may want them.

import { ApiError, ask } from "./api.js";
import { by } from "./dom.js";
import { sayNow, tell } from "./notices.js";
import { cropped, photo } from "./pictures.js";

const KEPT = 8;
const TAKEN = "Choose a JPEG, PNG, WebP, BMP, GIF or TIFF file.";
const photos = new Map();
let last = 0;

/** The photo of a number, `{code, subject}`; undefined after a reload, or after many others. */
export const sent = (number) => photos.get(number);

/** Hashes a photo and keeps it: its number and code; null, and the reason told, if it cannot be. */
export async function send(file, info, signal) {
  if (file.type && !file.type.startsWith("image/")) {
    tell(`${file.name} is not an image.`, TAKEN);
    return null;
  }
  if (file.size > info.limits.upload_bytes) {
    tell(...tooLarge(file, info.limits));
    return null;
  }
  sayNow(`Looking at ${file.name} …`);
  const form = new FormData();
  form.append("image", file);
  let code;
  try {
    ({ code } = await ask("v1/hash", { body: form, signal }));
  } catch (error) {
    throw named(error, file, info.limits);
  }
  const number = (last += 1);
  photos.set(number, { code, subject: photo(number, file, await cropped(file, info)) });
  if (photos.size > KEPT) {
    const [oldest, { subject }] = photos.entries().next().value;
    if (subject.url) URL.revokeObjectURL(subject.url);
    photos.delete(oldest);
  }
  return { number, code };
}

function tooLarge({ name }, { upload_bytes: bytes, pixels }) {
  const most = `${Math.floor(bytes / 2 ** 20)} MB and ${(pixels / 1e6).toLocaleString("en")} million pixels`;
  return [`${name} is larger than the server takes.`, `Choose one of at most ${most}.`];
}

/** The error of a server, of the file it is about. */
function named(error, file, limits) {
  const { status } = error;
  if (status === 413) return new ApiError(status, ...tooLarge(file, limits));
  if (status === 422) return new ApiError(status, `${file.name} cannot be read as a photo.`, TAKEN);
  return error;
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
