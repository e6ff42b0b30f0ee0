// What is shown, as the part of the address after #: it can be shared, and "back" works.

export const HIGHEST = 4;
export const SIZES = [10, 20, 50, 100, 200, 500, 1000];

const KNOWN = ["item", "code", "w", "label", "k", "radius"];
const LONGEST = 40;

const number = (text, low, high) => {
  const value = /^\d{1,9}$/.test(text ?? "") ? Number(text) : NaN;
  return value >= low && value <= high ? value : null;
};

/** The view an address names; what is missing or cannot be is the default, and what cannot be is
 * listed as `odd`. */
export function read(hash, info) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const weights = (given.get("w") ?? "").split(",").map((text) => number(text, 0, HIGHEST));
  const fits = weights.length === info.concepts.length && weights.every((w) => w !== null);
  const code = given.get("code") ?? "";
  const view = {
    item: number(given.get("item"), 0, 999_999_999),
    code: /^[0-9a-f]+$/.test(code) && code.length === info.bits / 4 ? code : null,
    weights: fits && weights.some(Boolean) ? weights : info.concepts.map(() => 1),
    labels: given.getAll("label"),
    k: number(given.get("k"), 1, info.limits.k) ?? SIZES[0],
    radius: number(given.get("radius"), 0, furthest(info)),
  };
  const used = {
    item: view.item !== null,
    code: view.code !== null,
    w: fits && weights.some(Boolean),
    label: true,
    k: String(view.k) === given.get("k"),
    radius: view.radius !== null,
  };
  const odd = [...given].filter(([name]) => !KNOWN.includes(name) || !used[name]);
  view.odd = odd.map(([name, value]) => `${name}${value && "="}${value}`.slice(0, LONGEST));
  return view;
}

/** The largest distance there can be. */
export const furthest = (info) => info.bits * HIGHEST;

/** The address of a view, without what is the default. */
export function write(view) {
  const parts = new URLSearchParams();
  if (view.item !== null) parts.set("item", view.item);
  else if (view.code !== null) parts.set("code", view.code);
  if (view.weights.some((weight) => weight !== 1)) parts.set("w", view.weights.join(","));
  if (view.k !== SIZES[0]) parts.set("k", view.k);
  if (view.radius !== null) parts.set("radius", view.radius);
  for (const label of view.labels) parts.append("label", label);
  return `#${parts.toString().replaceAll("%2C", ",")}`;
}
