// The grid of images: cards that keep their place in it, and move when the ranking changes.

import { counted, fileName, make, readable, unseen } from "./dom.js";
import { Picture, item } from "./pictures.js";

const SIZE = 224;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** One image: its picture, its label and, of a hit, what its concepts say. */
class Card {
  #grid;
  #bars;
  #head;
  #rank = make("span", { class: "rank" });
  #distance = make("span", { class: "distance" });
  #pin;
  #label = make("span", { class: "label" });

  constructor(grid, entry) {
    this.#grid = grid;
    const { info, actions } = grid;
    this.id = entry.id;
    this.subject = item(entry.id, readable(entry.label));
    this.picture = new Picture(this.subject, SIZE, info.heat, actions.failed);
    const more = () => actions.more(this.id);
    this.open = make(
      "button",
      { class: "open", type: "button", onclick: more, title: "More like this" },
      this.picture.element,
      unseen("more like this"),
    );
    const pin = () => actions.pin(this.id);
    this.#pin = make("button", { class: "pin", type: "button", onclick: pin }, "Compare");
    this.#label.textContent = readable(entry.label);
    this.#label.title = `${entry.label ?? ""}\n${entry.path}`.trim();
    this.#bars = make("ul", { class: "bars" }, ...info.concepts.map((name, m) => this.#bar(name, m)));
    this.#head = make("p", { class: "head" }, this.#rank, this.#distance);
    const file = make("span", { class: "file muted small" }, fileName(entry.path));
    const foot = make("p", { class: "foot" }, file, this.#pin);
    const text = make("div", { class: "text" }, this.#head, this.#label, foot, this.#bars);
    this.element = make("li", { class: "card", "data-id": entry.id }, this.open, text);
  }

  #bar(name, m) {
    const { info, actions } = this.#grid;
    const fill = make("span", { class: "fill" });
    fill.style.setProperty("--concept", `rgb(${info.colours[m].join(",")})`);
    const bar = make(
      "button",
      { class: "bar", type: "button" },
      make("span", { class: "bar-name" }, name),
      make("span", { class: "track", "aria-hidden": "true" }, fill),
      make("span", { class: "bar-count" }),
    );
    const point = (on) => () => actions.point(on ? m : null, this);
    bar.addEventListener("pointerenter", (event) => {
      if (event.pointerType !== "touch") point(true)();
    });
    bar.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") point(false)();
    });
    bar.addEventListener("focus", () => {
      if (bar.matches(":focus-visible")) point(true)();
    });
    bar.addEventListener("blur", point(false));
    bar.addEventListener("click", point(true)); // a tap; the next one elsewhere ends it
    return make("li", {}, bar);
  }

  /** Says what a hit's concepts say, or nothing for an image that was not searched for. */
  update(entry) {
    const { info, weights, queried, pinned } = this.#grid;
    const hit = entry.rank !== undefined;
    this.#bars.hidden = !hit;
    this.#head.hidden = !hit;
    this.#pin.hidden = !hit;
    this.hit = hit ? entry : null;
    if (!hit) return;
    const weighted = weights.some((weight) => weight !== 1) ? "weighted " : "";
    const self = entry.id === queried;
    this.#rank.textContent = entry.rank;
    this.#distance.textContent = self ? "this image" : `${weighted}distance ${entry.distance}`;
    this.#pin.setAttribute("aria-pressed", String(entry.id === pinned));
    this.element.classList.toggle("pinned", entry.id === pinned);
    [...this.#bars.children].forEach((row, m) => {
      const differing = entry.per_concept[m];
      const bar = row.firstChild;
      row.classList.toggle("ignored", weights[m] === 0);
      bar.querySelector(".fill").style.setProperty("width", `${(100 * differing) / info.sub_bits}%`);
      const count = differing ? `${differing}/${info.sub_bits}` : "same";
      bar.querySelector(".bar-count").textContent = count;
      const says = differing ? `${counted(differing, "bit")} of ${info.sub_bits} differ` : "same";
      const ignored = weights[m] === 0 ? ", does not count" : "";
      bar.setAttribute("aria-label", `${info.concepts[m]}: ${says}${ignored}`);
    });
  }

  /** Lets Tab stop at its buttons, or pass by. */
  reachable(yes) {
    for (const button of this.element.querySelectorAll("button")) button.tabIndex = yes ? 0 : -1;
  }
}

/** The cards of a list, in order; `actions` are more, pin, point and failed. */
export class Grid {
  weights = [];
  queried = null;
  pinned = null;
  kept = null;
  #list;
  #cards = new Map();
  #near = new Set();
  #watch = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      const card = this.#cards.get(Number(target.dataset.id));
      if (isIntersecting) this.#near.add(target);
      else this.#near.delete(target);
      if (isIntersecting && this.kept !== null) card?.picture.look(this.kept);
    }
  });

  constructor(list, info, actions) {
    this.#list = list;
    this.info = info;
    this.actions = actions;
    list.addEventListener("focusin", (event) => this.#arrive(event.target));
    list.addEventListener("keydown", (event) => this.#key(event));
  }

  /** The card of an image; undefined if it is not in the grid. */
  card = (id) => this.#cards.get(id);

  /** The card that holds the focus. */
  get focused() {
    const element = document.activeElement?.closest("li.card");
    return element && this.#list.contains(element) ? this.card(Number(element.dataset.id)) : null;
  }

  /** Lets the keyboard go on from the card it was at last, or from the first. */
  enter() {
    const first = this.#list.querySelector("li.card .open[tabindex='0']");
    first?.focus();
    return Boolean(first);
  }

  /** Shows these images in this order; those that were there move to their new places. */
  show(entries, { moving = false, adding = false } = {}) {
    const before = moving && !calm.matches ? this.#places() : null;
    const focus = document.activeElement;
    const staying = new Set(entries.map(({ id }) => id));
    for (const [id, card] of adding ? [] : this.#cards) {
      if (staying.has(id)) continue;
      this.#watch.unobserve(card.element);
      this.#near.delete(card.element);
      card.element.remove();
      this.#cards.delete(id);
    }
    let last = adding ? this.#list.lastElementChild : null;
    for (const entry of entries) {
      let card = this.card(entry.id);
      if (!card) {
        card = new Card(this, entry);
        this.#cards.set(entry.id, card);
        this.#watch.observe(card.element);
      }
      card.update(entry);
      const after = last ? last.nextElementSibling : this.#list.firstElementChild;
      if (after !== card.element) this.#list.insertBefore(card.element, after);
      last = card.element;
    }
    if (this.#list.contains(focus) && focus !== document.activeElement) {
      focus.focus({ preventScroll: true });
    }
    const current = this.focused ?? this.card(Number(this.#list.firstElementChild?.dataset.id));
    for (const card of this.#cards.values()) card.reachable(card === current);
    if (before) this.#move(before);
  }

  /** Marks the card that is compared with the query; null marks none. */
  pin(id) {
    const changed = [this.pinned, id];
    this.pinned = id;
    for (const card of changed.map(this.card)) if (card?.hit) card.update(card.hit);
  }

  /** Keeps the map of a concept over every picture that is in sight; null ends it. */
  keep(concept) {
    this.kept = concept;
    for (const card of this.#cards.values()) {
      if (concept === null || this.#near.has(card.element)) card.picture.look(concept);
    }
  }

  #places() {
    const places = new Map();
    for (const [id, { element }] of this.#cards) places.set(id, element.getBoundingClientRect());
    return places;
  }

  #move(before) {
    const inSight = ({ top, bottom }) => bottom > 0 && top < innerHeight;
    const timing = { duration: 260, easing: "cubic-bezier(.2, 0, 0, 1)" };
    for (const { element } of this.#cards.values()) {
      for (const animation of element.getAnimations()) animation.cancel();
    }
    for (const [id, now] of this.#places()) {
      const { element } = this.card(id);
      const old = before.get(id);
      if (!old) {
        if (inSight(now)) element.animate([{ opacity: 0 }, { opacity: 1 }], timing);
      } else if ((old.left !== now.left || old.top !== now.top) && (inSight(old) || inSight(now))) {
        const from = `translate(${old.left - now.left}px, ${old.top - now.top}px)`;
        element.animate([{ transform: from }, { transform: "none" }], timing);
      }
    }
  }

  #arrive(target) {
    const here = target.closest("li.card");
    for (const card of this.#cards.values()) card.reachable(card.element === here);
  }

  #key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const elements = [...this.#list.children];
    const at = elements.indexOf(event.target.closest("li.card"));
    const first = elements.findIndex(({ offsetTop }) => offsetTop !== elements[0].offsetTop);
    const across = first < 0 ? elements.length : first;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
    let to;
    if (event.key in steps) to = at + steps[event.key];
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = elements.length - 1;
    else return;
    event.preventDefault();
    if (elements[to]) this.card(Number(elements[to].dataset.id)).open.focus();
  }
}
