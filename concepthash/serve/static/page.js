// The page: what the address names is asked for and shown; what the user does becomes an address.

import * as address from "./address.js";
import { ask, setToken } from "./api.js";
import { Grid } from "./cards.js";
import { compare } from "./compare.js";
import { Concepts } from "./concepts.js";
import { by, counted, fileName, make, readable } from "./dom.js";
import { gradient } from "./heat.js";
import { LabelFilter } from "./labels.js";
import { complete, failed, hush, locked, mention, say, tell } from "./notices.js";
import { Picture, item } from "./pictures.js";
import { receive, send, sent } from "./uploads.js";

const PAGE = 48;
const DEBOUNCE = 30;
const VIEWS = ["token-view", "empty-view", "gallery-view"];

let info = null;
let view = null;
let grid = null;
let concepts = null;
let labels = null;
let query = null; // {subject, code, picture}: what the images are compared with
let pointed = null; // the card whose bar is pointed at
let request = null; // the AbortController of the answer that is waited for
let next = null; // where the list of all images goes on
let timer = 0;

// ---- opening

function only(shown) {
  for (const id of VIEWS) by(id).hidden = id !== shown;
  by("pickers").hidden = shown !== "gallery-view";
}

locked.ask = () => {
  if (!by("token-view").hidden) tell("The server does not take this token.");
  only("token-view");
  by("token").focus();
};

async function open() {
  try {
    info = await ask("v1/info");
  } catch (error) {
    failed(error, open);
    return;
  }
  hush();
  by("name").textContent = info.gallery;
  document.title = `${info.gallery} · ConceptHash`;
  const shape = `${info.bits} bits in ${counted(info.concepts.length, "concept")}`;
  by("about").textContent = `${counted(info.images, "image")} · ${shape} · model ${info.model}`;
  by("empty-command").textContent = `chash index FOLDER --out ${info.gallery}`;
  only(info.images ? "gallery-view" : "empty-view");
  if (!info.images) return;
  build();
  await show(history.state?.photo);
  ask("v1/labels").then((told) => labels.offer(told.labels), failed);
}

function build() {
  by("legend-all").textContent = `all ${info.sub_bits} bits differ`;
  by("legend-scale").style.setProperty("background", gradient(info.heat));
  for (const id of ["labels", "grid"]) by(id).replaceChildren();
  by("radius").max = address.furthest(info);
  const sizes = address.SIZES.filter((k) => k <= info.limits.k);
  by("k").replaceChildren(...sizes.map((k) => make("option", { value: k }, k)));
  grid = new Grid(by("grid"), info, { more, pin, point, failed: mention });
  concepts = new Concepts(by("concepts"), info, { weigh, keep, point });
  labels = new LabelFilter(by("labels"), (chosen) => go({ labels: chosen }));
}

// ---- going somewhere

/** Shows another view, which "back" leaves again. */
function go(changes, number = history.state?.photo) {
  history.pushState({ photo: number }, "", address.write({ ...view, ...changes }));
  return show(number);
}

/** Shows the view the address names, and says what of it cannot be; `number` is that of a photo
 * that was sent. */
async function show(number) {
  clearTimeout(timer);
  const named = address.read(location.hash, info);
  view = named;
  await present(number);
  if (view === named && named.odd.length && by("banner").hidden) {
    tell(`This link says what cannot be: ${named.odd.join(", ")}.`, "The rest of it is shown.");
  }
}

async function present(number) {
  labels.set(view.labels);
  offerSize(view.k);
  by("radius").value = view.radius ?? "";
  const asking = view.item !== null || view.code !== null;
  for (const id of ["query", "weighing", "limits", "legend"]) by(id).hidden = !asking;
  by("welcome").hidden = asking;
  if (!asking) {
    query = null;
    unpin();
    concepts.keep(null);
    await list();
    return;
  }
  const subject = subjectOf(number);
  const another = query?.subject.key !== subject.key;
  if (another) {
    unpin();
    query = { subject, code: view.code, picture: null };
    scrollTo({ top: 0 });
  }
  concepts.set(query.code, view.weights);
  await search({ moving: !another });
}

function offerSize(k) {
  const sizes = by("k");
  if (![...sizes.options].some(({ value }) => Number(value) === k)) {
    sizes.append(make("option", { value: k }, k));
  }
  sizes.value = k;
}

function subjectOf(number) {
  if (view.item !== null) return item(view.item, `image ${view.item}`);
  const known = sent(number);
  if (known?.code === view.code) return known.subject;
  return { key: `code ${view.code}`, name: `code ${view.code}` };
}

const more = (id) => go({ item: id, code: null }, null);

async function upload(file) {
  const mine = begin();
  try {
    const known = await send(file, info, mine.signal);
    if (known) await go({ item: null, code: known.code }, known.number);
  } catch (error) {
    failed(error, () => upload(file));
  } finally {
    done(mine);
  }
}

function weigh(weights) {
  view = { ...view, weights };
  concepts.set(query.code, weights);
  clearTimeout(timer);
  document.body.classList.add("busy");
  timer = setTimeout(() => {
    history.replaceState(history.state, "", address.write(view));
    search({ moving: true });
  }, DEBOUNCE);
}

// ---- asking

function begin() {
  request?.abort();
  request = new AbortController();
  document.body.classList.add("busy");
  return request;
}

function done(mine) {
  if (request === mine) document.body.classList.remove("busy");
}

/** What to look for and how, as the server takes it. */
function asked() {
  const { k, weights, radius, labels: chosen } = view;
  const body = query.code === null ? { id: view.item, k } : { code: query.code, k };
  if (weights.some((weight) => weight !== 1)) body.weights = weights;
  if (radius !== null) body.radius = radius;
  if (chosen.length) body.labels = chosen;
  return body;
}

async function search({ moving = false } = {}) {
  const mine = begin();
  const started = performance.now();
  try {
    const told = await ask("v1/query", { body: asked(), signal: mine.signal });
    const [answer] = told.queries;
    if (!query.picture) introduce(answer);
    results(answer.hits, moving, performance.now() - started);
    complete(told.missing_shards);
  } catch (error) {
    failed(error, () => search({ moving }));
  } finally {
    done(mine);
  }
}

/** Shows the query itself: its picture, name and code. */
function introduce({ path, code }) {
  const { subject } = query;
  query.code = code;
  query.picture = new Picture(subject, 448, info.heat, mention);
  query.picture.look(concepts.kept);
  by("query-picture").replaceChildren(query.picture.element);
  const lost = "Only the code is known: a link does not hold the photo.";
  by("query-name").textContent = subject.request ? fileName(path ?? subject.name) : lost;
  by("query-name").title = path ?? "";
  by("query-code").textContent = code;
  grid.queried = view.item;
  concepts.set(code, view.weights);
}

function results(hits, moving, milliseconds) {
  grid.weights = view.weights;
  grid.show(hits, { moving });
  by("more").hidden = true;
  by("nothing").hidden = hits.length > 0;
  by("nothing").textContent = "No image is this near. Allow a larger distance, or other labels.";
  const weighted = view.weights.some((weight) => weight !== 1);
  by("legend-text").textContent = weighted
    ? "distance: differing bits, each times the weight of its concept"
    : "distance: differing bits";
  const filtered = view.labels.length ? " with these labels" : "";
  const found = `${counted(hits.length, "image")}${filtered} of ${info.images.toLocaleString("en")}`;
  say(`${found}, nearest first · ${Math.max(1, Math.round(milliseconds))} ms`);
  if (grid.pinned !== null && !grid.card(grid.pinned)) unpin();
}

/** All images, or those of the chosen labels, one label after the other. */
async function list() {
  next = { label: 0, after: null, total: 0 };
  grid.queried = null;
  grid.weights = view.weights;
  await turn(false);
}

async function turn(adding) {
  const mine = begin();
  const parts = new URLSearchParams({ limit: PAGE });
  if (view.labels.length) parts.set("label", view.labels[next.label]);
  if (next.after !== null) parts.set("after", next.after);
  try {
    const told = await ask(`v1/items?${parts}`, { signal: mine.signal });
    complete(told.missing_shards);
    grid.show(told.items, { adding });
    next.after = told.next;
    if (told.next === null) next.label += 1;
    const ended = told.next === null && next.label >= view.labels.length;
    const count = by("grid").childElementCount;
    by("more").hidden = ended;
    by("nothing").hidden = count > 0;
    by("nothing").textContent = "No image has this label.";
    const which = view.labels.length ? ` with the label ${view.labels.map(readable).join(" or ")}` : "";
    say(ended ? `${counted(count, "image")}${which}` : `The first ${counted(count, "image")}${which}`);
  } catch (error) {
    failed(error, () => turn(adding));
  } finally {
    done(mine);
  }
}

// ---- looking closer

/** Shows where a concept looks in the query and in a card, while it is pointed at. */
function point(concept, card = null) {
  if (pointed !== card) pointed?.picture.look(concepts.kept);
  pointed = card;
  const shown = concept ?? concepts.kept;
  query?.picture?.look(shown);
  card?.picture.look(shown);
}

function keep(concept) {
  query?.picture?.look(concept);
  grid.keep(concept);
}

async function pin(id) {
  if (grid.pinned === id || !query?.picture) {
    unpin();
    return;
  }
  grid.pin(id);
  const root = by("compare");
  root.hidden = false;
  await compare(root, { query, card: grid.card(id), info, close: unpin, failed });
  root.querySelector("h2").focus({ preventScroll: true });
  root.scrollIntoView({ block: "nearest" });
}

function unpin() {
  const card = grid.card(grid.pinned);
  const inside = by("compare").contains(document.activeElement);
  grid.pin(null);
  by("compare").hidden = true;
  by("compare").replaceChildren();
  if (inside) card?.open.focus();
}

// ---- what the user does

function press(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || by("help").open || !view) return;
  const { key, target } = event;
  if (key === "Escape") escape();
  else if (target.matches("input:not([type=range]), select")) return;
  else if (key === "?") by("help").showModal();
  else if (key === "/") labels.focus();
  else if (key.startsWith("Arrow") && [document.body, by("results")].includes(target)) {
    if (!grid.enter()) return;
  } else if (key === "e" && grid.focused?.hit) pin(grid.focused.id);
  else if (query && Number(key) >= 1 && Number(key) <= info.concepts.length) {
    const concept = Number(key) - 1;
    concepts.keep(concepts.kept === concept ? null : concept);
  } else return;
  event.preventDefault();
}

function escape() {
  if (labels.open) labels.close();
  else if (!by("compare").hidden) unpin();
  else if (concepts.kept !== null) concepts.keep(null);
  else hush();
}

function showTheme() {
  const { theme } = document.documentElement.dataset;
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  by("theme").setAttribute("aria-pressed", String(dark));
  return dark;
}

function switchTheme() {
  const theme = showTheme() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  showTheme();
  try {
    localStorage.setItem("chash-theme", theme);
  } catch {
    // Then it lasts as long as this page.
  }
}

function listen() {
  const on = (id, event, act) => by(id).addEventListener(event, act);
  on("theme", "click", switchTheme);
  on("help-button", "click", () => by("help").showModal());
  on("more", "click", () => turn(true));
  on("leave", "click", () => go({ item: null, code: null }, null));
  on("reset", "click", () => weigh(info.concepts.map(() => 1)));
  on("k", "change", ({ target }) => go({ k: Number(target.value) }));
  on("radius", "change", ({ target }) => {
    if (target.reportValidity()) go({ radius: target.value === "" ? null : Number(target.value) });
  });
  on("look-again", "click", open);
  on("token-form", "submit", (event) => {
    event.preventDefault();
    setToken(by("token").value.trim());
    open();
  });
  on("home", "click", (event) => {
    if (!view || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go({ ...address.read("", info) }, null);
  });
  on("skip", "click", (event) => {
    event.preventDefault();
    by("results").focus();
  });
  document.addEventListener("keydown", press);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
  addEventListener("popstate", ({ state }) => view && show(state?.photo));
  receive(upload, () => view !== null);
}

listen();
showTheme();
if (matchMedia("(max-width: 48rem)").matches) {
  for (const id of ["weighing", "filters"]) by(id).open = false;
}
open();
