// What the pages have in common: asking their service, watching it, and showing what it says.

import facts from "/shared/facts.js";

const POLL_MS = 1000;
const FEW = 5;
const HIDDEN_MS = 1000; // at most, while a page loads, so that nothing moves
const PATIENCE_MS = 5000;

// What a service refused: `status`, and a sentence for the reader.
export class Refusal extends Error {
  constructor(status, problem) {
    const fields = (problem.errors ?? []).map(({ message }) => message);
    super(fields.length ? fields.join("; ") : (problem.detail ?? `The answer was ${status}.`));
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const answer = await fetch(path, {
    cache: "no-store",
    signal: AbortSignal.timeout(PATIENCE_MS),
    ...options,
  });
  if (answer.ok || answer.status === 304) return answer;
  throw new Refusal(answer.status, await answer.json().catch(() => ({})));
}

// A page of a list, and whether it is the last one.
export async function getPage(path) {
  const answer = await ask(path);
  return [await answer.json(), !answer.headers.get("Link")];
}

// Sent again under the same key, it has no second effect.
export async function post(path, body, key = newKey()) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

export async function put(path, key) {
  await ask(path, { method: "PUT", headers: { "Idempotency-Key": key } });
}

export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function explain(error) {
  return error instanceof Refusal && error.status !== 503
    ? error.message
    : "The service did not answer. Nothing is lost: try again.";
}

// Calls `show` with the content of a path, now and whenever it changes; `path()` may change, too,
// or be null. Returns a function that looks at once; `anew`, for a view that was cleared, shows
// even unchanged content.
export function watch(path, show) {
  let view = {};
  const look = async () => {
    const wanted = path();
    if (wanted !== view.path) view = { path: wanted };
    if (wanted === null) return;
    const asked = view;
    const headers = asked.etag ? { "If-None-Match": asked.etag } : {};
    const answer = await ask(wanted, { headers });
    if (answer.status === 304) return;
    const body = await answer.json();
    if (view !== asked || path() !== wanted) return; // it was changed or cleared meanwhile
    await show(body, answer);
    asked.etag = answer.headers.get("ETag");
  };
  watched.push(look);
  return (anew = false) => {
    if (anew) view = {};
    return turn(look);
  };
}

const watched = [];

async function turn(look) {
  try {
    await look();
    return true;
  } catch (error) {
    return error instanceof Refusal && error.status < 500;
  }
}

// Fetches everything that is watched, over and over, and shows how the service is: staff see its
// state, where the page has a place for that, and everybody sees when it does not answer.
export async function start(service) {
  document.querySelector("#banner").textContent =
    `${service} is not answering. What you see may be old; trying again…`;
  const show = () => document.body.classList.remove("loading");
  setTimeout(show, HIDDEN_MS);
  const looks = document.querySelector("#state") ? [showState, ...watched] : watched;
  for (;;) {
    const answered = await Promise.all(looks.map(turn));
    document.querySelector("#banner").hidden = answered.every(Boolean);
    show();
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    while (document.hidden) await new Promise((resolve) => setTimeout(resolve, POLL_MS / 5));
  }
}

async function showState() {
  const answer = await fetch("/readyz", {
    cache: "no-store",
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  const state = await answer.json();
  const behind = Object.entries(state.inbox_behind ?? {});
  const states = [
    ["This service", state.status === "ready" ? "works" : "cannot work now", state.status !== "ready"],
    ["Connection to the others", state.broker, state.broker === "down"],
    ["News not sent yet", state.outbox_waiting, state.outbox_waiting > 0],
    ...behind.map(([stream, count]) => [
      `News of ${stream} not read yet`,
      count ?? "unknown",
      count !== 0,
    ]),
    ["News that failed", state.dead, state.dead > 0],
  ];
  const shown = states
    .filter(([, value]) => value !== undefined)
    .map(([term, value, warns]) =>
      make("div", { className: warns ? "warn" : "" }, [make("dt", {}, term), make("dd", {}, value)]),
    );
  document.querySelector("#state").replaceChildren(...shown);
}

// --- the other pages

// Each is on its own port of the same host. On any other port, a page is behind a proxy, which
// has other addresses for the pages: then there are no links.
function link(nav) {
  const port = location.port || (location.protocol === "https:" ? "443" : "80");
  const ports = facts.ports ?? {};
  nav.hidden = port !== String(ports[document.body.dataset.page]);
  for (const anchor of nav.querySelectorAll("a")) {
    anchor.href = `${location.protocol}//${location.hostname}:${ports[anchor.dataset.page]}/`;
    if (anchor.dataset.page === document.body.dataset.page) anchor.ariaCurrent = "page";
  }
}

document.querySelectorAll("nav.pages").forEach(link);

// --- what the browser keeps for us

// A value that was kept under a name of ours, or null: others may have written something there, and
// a browser may refuse to keep anything.
export function kept(name, isRight) {
  try {
    const value = JSON.parse(localStorage.getItem(`parrot-shop.${name}`));
    return isRight(value) ? value : null;
  } catch {
    return null;
  }
}

// Where there is no room for it, nothing older stays.
export function keep(name, value) {
  try {
    localStorage.removeItem(`parrot-shop.${name}`);
    localStorage.setItem(`parrot-shop.${name}`, JSON.stringify(value));
  } catch {
    // The page has it nevertheless, for as long as it is open.
  }
}

// --- showing

// An element with properties and children; what is not an element becomes text, never markup.
export function make(tag, properties = {}, children = []) {
  const { data = {}, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, data);
  element.append(...[children].flat().map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

// Shows one element for each row, in order, and keeps the elements that are unchanged, so that the
// keyboard's focus and a screen reader stay where they are. A few new elements are highlighted;
// to highlight many, as at first, would keep a slow computer busy.
export function showRows(list, rows, build, keyOf = (row) => row.id) {
  const there = new Map(Array.from(list.children, (child) => [child.dataset.key, child]));
  const fresh = [];
  const wanted = rows.map((row) => {
    const key = String(keyOf(row));
    const text = JSON.stringify(row);
    const old = there.get(key);
    if (old?.dataset.row === text) return old;
    const made = build(row);
    Object.assign(made.dataset, { key, row: text });
    const place = old?.contains(document.activeElement)
      ? Array.from(old.querySelectorAll("button, input")).indexOf(document.activeElement)
      : -1;
    if (!old) fresh.push(made);
    if (place >= 0) old.replaceWith(made);
    made.querySelectorAll("button, input")[place]?.focus();
    return made;
  });
  wanted.forEach((element, position) => {
    if (list.children[position] !== element) list.insertBefore(element, list.children[position]);
  });
  while (list.children.length > wanted.length) list.lastChild.remove();
  if (list.dataset.shown && fresh.length <= FEW)
    for (const element of fresh) element.classList.add("arrived");
  list.dataset.shown = "yes";
}

// Whether names have all the words of a text, ignoring case and how accents are composed.
export function finder(text) {
  const words = folded(text).split(/\s+/).filter(Boolean);
  return (name) => words.every((word) => folded(name).includes(word));
}

const folded = (text) => text.normalize("NFKC").toUpperCase().normalize("NFKC");

// --- money

// Prices are whole numbers of the smallest coin: 4000 is shown as 40.00, unless the currency has
// other coins, or none.
const amounts = new Intl.NumberFormat(
  "en",
  facts.currency
    ? { style: "currency", currency: facts.currency }
    : { minimumFractionDigits: 2, maximumFractionDigits: 2 },
);
const DIGITS = amounts.resolvedOptions().maximumFractionDigits;
const EXAMPLE = (40).toFixed(DIGITS);
const FRACTION = DIGITS ? `(?:[.,](\\d{1,${DIGITS}}))?` : "()";
const AMOUNT = new RegExp(`^\\s*(\\d{1,10})${FRACTION}\\s*$`);

export function money(price) {
  return amounts.format(price / 10 ** DIGITS);
}

export function parseMoney(text) {
  const parts = AMOUNT.exec(text);
  if (!parts) {
    const like = DIGITS ? `40 or ${EXAMPLE}` : "40";
    throw new Refusal(422, { detail: `Write an amount like ${like}.` });
  }
  return Number(parts[1] + (parts[2] ?? "").padEnd(DIGITS, "0"));
}

for (const label of document.querySelectorAll("label.price")) {
  if (facts.currency) label.querySelector("span").append(` (${facts.currency})`);
  label.querySelector("input").placeholder = EXAMPLE;
}

// Digits as a number. Anything else, or more of them than a number can hold, stays a text, which the
// service refuses.
export function parseNumber(text) {
  const digits = text.trim();
  return /^\d+$/.test(digits) && Number.isSafeInteger(Number(digits)) ? Number(digits) : text;
}

// Made once: to make one takes far longer than to use it.
const moments = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const numbers = new Intl.NumberFormat("en");

export function time(moment) {
  return make("time", { dateTime: moment }, moments.format(new Date(moment)));
}

export function number(count) {
  return numbers.format(count);
}

export function note(element, text, bad = false) {
  element.textContent = text;
  element.classList.toggle("bad", bad);
  element.hidden = !text;
}

// Runs an action when a form is sent, once at a time, and shows its outcome.
export function onSubmit(form, action) {
  const notice = form.querySelector(".note");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.dataset.busy) return;
    form.dataset.busy = "yes";
    try {
      note(notice, (await action()) ?? "");
    } catch (error) {
      note(notice, explain(error), true);
    } finally {
      delete form.dataset.busy;
    }
  });
}
