// What the page says: its status line, and a banner for what went wrong.

import { ApiError, waiting } from "./api.js";
import { by, make } from "./dom.js";

let lasting = "";

/** Says in the status line how things are. */
export function say(text) {
  lasting = text;
  by("status").textContent = text;
}

/** Says in the status line what goes on; how things are comes back if it fails. */
export function sayNow(text) {
  by("status").textContent = text;
}

/** Says what went wrong and what to do; `again` is called by a button that tries it again. */
export function tell(what, hint = null, again = null) {
  const banner = by("banner");
  const button = (text, onclick) => make("button", { class: "button", type: "button", onclick }, text);
  const text = make("p", {}, make("strong", {}, what), hint ? ` — ${hint}` : "");
  banner.replaceChildren(text);
  if (again) banner.append(button("Try again", () => again()));
  banner.append(button("Dismiss", hush));
  banner.hidden = false;
}

/** Says which shards of the gallery are not in what is shown, or takes the banner away if all are. */
export function complete(missing = []) {
  hush();
  if (!missing.length) return;
  const one = missing.length === 1;
  const what = `${missing.join(", ")} ${one ? "does" : "do"} not answer.`;
  tell("Some images are left out.", `${what} Try again when ${one ? "it does" : "they do"}.`);
}

/** Takes the banner away. */
export function hush() {
  by("banner").hidden = true;
}

/** What is called when the server wants its token. */
export const locked = { ask: () => {} };

/** Says what an error of the server says, and offers to try it again if that may help; one that was
 * not the server's is a defect and thrown. */
export function failed(error, again = null) {
  if (error.name === "AbortError") return;
  sayNow(lasting);
  if (!(error instanceof ApiError)) throw error;
  if (error.status === 401) locked.ask();
  else tell(error.message, error.hint, error.passing ? again : null);
}

/** Says in the status line only what an error says: of what was merely pointed at. */
export function mention(error) {
  if (error instanceof ApiError && error.status !== 401) sayNow(error.message);
  else failed(error);
}

waiting.tell = (seconds) => sayNow(`The server is busy; trying again in ${seconds} s.`);
