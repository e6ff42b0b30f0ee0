// The concepts of the query: their bits, how much they count, and where they look.

import { HIGHEST } from "./address.js";
import { bits, make, subCode, unseen } from "./dom.js";

/** A row for each concept; `actions` are weigh (new weights), keep (concept or null), point. */
export class Concepts {
  #rows;
  #weights;
  #info;
  #actions;
  #kept = null;

  constructor(list, info, actions) {
    this.#info = info;
    this.#actions = actions;
    this.#weights = info.concepts.map(() => 1);
    this.#rows = info.concepts.map((name, m) => this.#row(name, m));
    list.replaceChildren(...this.#rows.map(({ element }) => element));
  }

  #row(name, m) {
    const { colours } = this.#info;
    const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.setProperty("--concept", `rgb(${colours[m].join(",")})`);
    const toggle = () => this.keep(this.#kept === m ? null : m);
    const title = `Show where ${name} looks`;
    const show = make(
      "button",
      { class: "show", type: "button", "aria-pressed": "false", title, onclick: toggle },
      swatch,
      make("span", { class: "show-name" }, name),
      unseen(": show where it looks"),
    );
    const code = make("span", { class: "sub-code" });
    const slider = make("input", {
      id: `weight-${m}`,
      type: "range",
      min: 0,
      max: HIGHEST,
      step: 1,
      "aria-label": `Weight of ${name}`,
      oninput: () => this.#weigh(m, Number(slider.value)),
    });
    const value = make("output", { for: `weight-${m}`, class: "weight" });
    const only = make(
      "button",
      { class: "only", type: "button", onclick: () => this.#only(m) },
      "Only this",
      unseen(`: ${name}`),
    );
    const controls = make("div", { class: "controls" }, slider, value, only);
    const head = make("div", { class: "concept-head" }, show, code);
    const refusal = make("p", { class: "refusal small", role: "status" });
    const element = make("li", { class: "concept" }, head, controls, refusal);
    element.addEventListener("pointerenter", (event) => {
      if (event.pointerType !== "touch") this.#actions.point(m);
    });
    element.addEventListener("pointerleave", () => this.#actions.point(null));
    return { element, show, code, slider, value, refusal };
  }

  /** Shows the bits of a code, and weights, without telling anybody. */
  set(code, weights) {
    this.#weights = weights;
    this.#rows.forEach(({ element, code: shown, slider, value, refusal }, m) => {
      refusal.textContent = "";
      const sub = code === null ? null : subCode(code, m, this.#info.sub_bits);
      shown.replaceChildren(...(sub === null ? [] : [bits(sub)]));
      slider.value = weights[m];
      value.textContent = `×${weights[m]}`;
      element.classList.toggle("ignored", weights[m] === 0);
    });
  }

  /** Keeps the map of a concept shown; null ends it. */
  keep(concept) {
    this.#kept = concept;
    this.#rows.forEach(({ show }, m) => show.setAttribute("aria-pressed", String(m === concept)));
    this.#actions.keep(concept);
  }

  /** Which concept is kept shown. */
  get kept() {
    return this.#kept;
  }

  #weigh(m, weight) {
    const weights = this.#weights.map((other, n) => (n === m ? weight : other));
    if (weights.some(Boolean)) {
      this.#actions.weigh(weights);
      return;
    }
    const { slider, refusal } = this.#rows[m];
    slider.value = this.#weights[m];
    refusal.textContent = "At least one concept has to count.";
  }

  #only(m) {
    this.#actions.weigh(this.#weights.map((_, n) => (n === m ? 1 : 0)));
  }
}
