// Elements of text and attributes. Nothing here parses HTML: names of files and labels are
// whatever their makers wrote.

/** The element with an id. */
export const by = (id) => document.getElementById(id);

/** A new element: `on...` attributes are listeners, `true` an empty attribute, `false` none. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Text that only screen readers tell. */
export const unseen = (text) => make("span", { class: "unseen" }, text);

/** A label as people read it: class folders are often written_like_this. */
export const readable = (label) => (label ? label.replaceAll("_", " ") : "no label");

/** The last part of a path. */
export const fileName = (path) => path.split(/[\\/]/).pop();

/** `1 image`, `2 images`. */
export const counted = (count, noun) =>
  `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** The bits of concept `m` of a code in hexadecimal, as text. */
export function subCode(code, m, subBits) {
  const bits = Array.from(code, (digit) => parseInt(digit, 16).toString(2).padStart(4, "0"));
  return bits.join("").slice(m * subBits, (m + 1) * subBits);
}

/** A sub-code in groups of four; where it differs from `other` its bits are inverted. */
export function bits(text, other = text) {
  const shown = make("span", { class: "bits" });
  Array.from(text).forEach((bit, place) => {
    if (place && place % 4 === 0) shown.append(" ");
    shown.append(bit === other[place] ? bit : make("b", {}, bit));
  });
  return shown;
}
