// The server's JSON API: tokens, errors in the server's words, patience with a busy server.

const TOKEN = "chash-token";
const RETRIES = 2;
const LONGEST_WAIT = 10;

let token = stored();

function stored() {
  try {
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null;
  }
}

/** Sends `value` with every request from now on; this tab remembers it. */
export function setToken(value) {
  token = value;
  try {
    sessionStorage.setItem(TOKEN, value);
  } catch {
    // Then it is asked for again after a reload.
  }
}

/** What went wrong: status 0 if nobody answered. */
export class ApiError extends Error {
  constructor(status, what, hint = null) {
    super(what);
    this.status = status;
    this.hint = hint;
  }

  /** Whether the same may succeed later. */
  get passing() {
    return this.status === 0 || this.status >= 500;
  }
}

// The server's own hints are commands and paths, for those who wrote the request.
const HINTS = {
  400: "Change the filters, or go back to all images.",
  404: "Go back to all images.",
  503: "Wait a moment.",
  504: "Wait a moment.",
};

/** Listens to a wait for a busy server: called with the seconds it asked for. */
export const waiting = { tell: () => {} };

async function answered(path, options) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  for (let tries = 0; ; tries += 1) {
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The server does not answer.", "Is chash serve still running?");
    }
    if (response.status !== 503 || tries === RETRIES) return response;
    const seconds = Math.min(Number(response.headers.get("Retry-After")) || 1, LONGEST_WAIT);
    waiting.tell(seconds);
    await new Promise((done) => setTimeout(done, 1000 * seconds));
    options.signal?.throwIfAborted();
  }
}

async function failure(response) {
  const { status } = response;
  let error = {};
  try {
    error = (await response.json()).error;
  } catch {
    // A proxy in between answers in its own way.
  }
  const what = error.what ?? `the server answered with status ${status}`;
  return new ApiError(status, `${what[0].toUpperCase()}${what.slice(1)}.`, HINTS[status] ?? error.try);
}

/** The JSON answer to a request; an object as `body` is sent as JSON, a form as a form. */
export async function ask(path, { body, signal } = {}) {
  const options = { signal };
  if (body instanceof FormData) Object.assign(options, { method: "POST", body });
  else if (body) {
    const headers = { "Content-Type": "application/json" };
    Object.assign(options, { method: "POST", body: JSON.stringify(body), headers });
  }
  const response = await answered(path, options);
  if (!response.ok) throw await failure(response);
  return response.json();
}

const arriving = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      arriving.unobserve(target);
      fetchPicture(target);
    }
  },
  { rootMargin: "200px" },
);

async function fetchPicture(image) {
  try {
    const response = await answered(image.dataset.path, {});
    if (!response.ok) throw await failure(response);
    const url = URL.createObjectURL(await response.blob());
    const release = () => URL.revokeObjectURL(url);
    image.addEventListener("load", release, { once: true });
    image.addEventListener("error", release, { once: true });
    image.src = url;
  } catch {
    image.dispatchEvent(new Event("error"));
  }
}

/** Lets an `<img>` load a picture of the server once it comes near the window. */
export function load(image, path) {
  if (token) {
    image.dataset.path = path;
    arriving.observe(image);
  } else {
    image.loading = "lazy";
    image.src = path;
  }
}
