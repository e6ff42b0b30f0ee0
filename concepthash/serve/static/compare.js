// The query and one image side by side: where each concept looks, and which bits differ.

import { bits, make, subCode } from "./dom.js";
import { Picture, explain } from "./pictures.js";

const SIZE = 224;

/** Fills `root` with the comparison of a query and a card of the grid. */
export async function compare(root, { query, card, info, close, failed }) {
  const { subject } = card;
  const title = make("h2", { tabindex: "-1" }, "Compared with the query");
  const attributes = { class: "button quiet", type: "button", onclick: close };
  const head = make("div", { class: "compare-head" }, title, make("button", attributes, "Close"));
  const rows = make("div", { class: "pairs" });
  root.replaceChildren(head, make("p", { class: "muted small" }, subject.name), rows);
  let code;
  try {
    ({ code } = await explain(subject));
  } catch (error) {
    failed(error);
    return;
  }
  rows.replaceChildren(...info.concepts.map((_, m) => pair(m, query, subject, code, info, failed)));
}

function pair(m, query, subject, code, info, failed) {
  const theirs = subCode(code, m, info.sub_bits);
  const ours = subCode(query.code, m, info.sub_bits);
  const differing = Array.from(ours).filter((bit, place) => bit !== theirs[place]).length;
  const pictures = [query.subject, subject].map((shown) => {
    const picture = new Picture(shown, SIZE, info.heat, failed);
    picture.look(m);
    return picture.element;
  });
  const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
  swatch.style.setProperty("--concept", `rgb(${info.colours[m].join(",")})`);
  const says = differing ? `${differing} of ${info.sub_bits} differ` : "same";
  const difference = make("span", { class: "pair-says" }, says);
  const row = (who, text, other) =>
    make("p", { class: "code-row" }, make("span", { class: "muted" }, who), bits(text, other));
  return make(
    "figure",
    { class: `pair ${differing ? "" : "agrees"}` },
    make("div", { class: "pair-pictures" }, ...pictures),
    make(
      "figcaption",
      {},
      make("p", { class: "pair-head" }, swatch, make("strong", {}, info.concepts[m]), difference),
      row("query", ours, theirs),
      row("image", theirs, ours),
    ),
  );
}
