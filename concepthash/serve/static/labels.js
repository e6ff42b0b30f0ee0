// The filter by label: a box to type in, what fits, and the labels that were chosen.

import { counted, make, readable } from "./dom.js";

const SHOWN = 50;

/** A combobox over any number of labels; `changed` is called with the chosen ones. */
export class LabelFilter {
  #labels = [];
  #chosen = [];
  #fits = [];
  #at = -1;
  #changed;
  #input;
  #list = make("ul", { id: "label-list", class: "options", role: "listbox", hidden: true, "aria-label": "Labels" });
  #refusal = make("p", { class: "refusal small", role: "status" });
  #chips = make("ul", { class: "chips", "aria-label": "Chosen labels" });

  constructor(root, changed) {
    this.#changed = changed;
    this.#input = make("input", {
      id: "label",
      type: "search",
      role: "combobox",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "any",
      "aria-expanded": "false",
      "aria-controls": "label-list",
      "aria-autocomplete": "list",
      oninput: () => {
        this.#refusal.textContent = "";
        this.#open();
      },
      onfocus: () => this.#open(),
      onclick: () => this.#open(),
      onblur: () => this.#leave(),
      onkeydown: (event) => this.#key(event),
    });
    const box = make("div", { class: "combobox" }, this.#input, this.#list);
    root.append(make("label", { for: "label" }, "Label"), box, this.#refusal, this.#chips);
  }

  /** Whether its list is open. */
  get open() {
    return !this.#list.hidden;
  }

  /** The labels there are: `{label, images}`, a null label for images without one. */
  offer(labels) {
    this.#labels = labels.map(({ label, images }) => {
      const text = readable(label);
      return { value: label ?? "", text, images, sought: `${text} ${label ?? ""}`.toLowerCase() };
    });
  }

  /** Shows which labels are chosen, without calling `changed`. */
  set(labels) {
    this.#chosen = labels;
    this.#chips.replaceChildren(
      ...labels.map((label) => {
        const name = `Remove ${readable(label)}`;
        const remove = () => this.#choose(labels.filter((other) => other !== label));
        const button = { type: "button", "aria-label": name, title: name, onclick: remove };
        return make("li", {}, make("span", {}, readable(label)), make("button", button, "×"));
      }),
    );
  }

  /** Puts the cursor into the box. */
  focus() {
    this.#input.focus();
    this.#input.select();
  }

  /** Closes the list. */
  close() {
    this.#list.hidden = true;
    this.#input.setAttribute("aria-expanded", "false");
    this.#input.removeAttribute("aria-activedescendant");
  }

  #choose(labels) {
    this.set(labels);
    this.#input.value = "";
    this.close();
    this.#changed(labels);
  }

  /** What was typed and not chosen filters nothing, so it does not stay, unless it is a label. */
  #leave() {
    if (document.activeElement === this.#input) return; // another window came to the front
    const text = this.#input.value.trim().toLowerCase();
    const meant = text && this.#fits.find((label) => label.text.toLowerCase() === text);
    this.#refusal.textContent = "";
    this.#input.value = "";
    this.close();
    if (meant) this.#choose([...this.#chosen, meant.value]);
  }

  #open() {
    const words = this.#input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = this.#labels.filter(
      ({ value, sought }) =>
        !this.#chosen.includes(value) && words.every((word) => sought.includes(word)),
    );
    this.#fits = fits.slice(0, SHOWN);
    const options = this.#fits.map(({ value, text, images }, n) => {
      // On press, not on click: the box keeps the focus and the list its place.
      const press = (event) => {
        event.preventDefault();
        this.#choose([...this.#chosen, value]);
      };
      const count = make("span", { class: "muted" }, counted(images, "image"));
      const attributes = { id: `label-${n}`, role: "option", "aria-selected": "false", onpointerdown: press };
      return make("li", attributes, make("span", {}, text), count);
    });
    const rest = fits.length - options.length;
    const note = options.length ? `${rest.toLocaleString("en")} more: type to find them` : "no such label";
    if (rest || !options.length) {
      options.push(make("li", { class: "muted note", role: "presentation" }, note));
    }
    this.#list.replaceChildren(...options);
    this.#list.hidden = false;
    this.#list.scrollIntoView({ block: "nearest" });
    this.#input.setAttribute("aria-expanded", "true");
    this.#go(words.length && this.#fits.length ? 0 : -1);
  }

  #go(at) {
    this.#at = at;
    [...this.#list.querySelectorAll("[role=option]")].forEach((option, n) => {
      option.setAttribute("aria-selected", String(n === at));
      if (n === at) option.scrollIntoView({ block: "nearest" });
    });
    if (at < 0) this.#input.removeAttribute("aria-activedescendant");
    else this.#input.setAttribute("aria-activedescendant", `label-${at}`);
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      if (!this.open) this.#open();
      else this.#go(Math.min(Math.max(this.#at + step, -1), this.#fits.length - 1));
    } else if (event.key === "Enter" && this.open && this.#at >= 0) {
      this.#choose([...this.#chosen, this.#fits[this.#at].value]);
    } else if (event.key === "Enter" && this.#input.value.trim() && !this.#fits.length) {
      this.close();
      this.#refusal.textContent = "No image has such a label.";
    } else if (event.key === "Backspace" && !this.#input.value && this.#chosen.length) {
      this.#choose(this.#chosen.slice(0, -1));
    }
  }
}
