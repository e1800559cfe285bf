// What the pages have in common: asking their service, watching it, and showing what it says.

const POLL_MS = 1000;
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

export async function get(path) {
  return (await ask(path)).json();
}

// Sent again under the same key, it has no second effect.
export async function post(path, body, key = newKey()) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

export async function put(path) {
  await ask(path, { method: "PUT" });
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

// Calls `show` with what is at a path, now and whenever that changes; `path()` may change, too.
export function watch(path, show) {
  let seen = {};
  const look = async () => {
    const wanted = path();
    if (wanted === null) return;
    const headers = seen.path === wanted && seen.etag ? { "If-None-Match": seen.etag } : {};
    const answer = await ask(wanted, { headers });
    if (answer.status === 304) return;
    const body = await answer.json();
    if (path() !== wanted) return; // it was changed meanwhile
    await show(body, answer);
    seen = { path: wanted, etag: answer.headers.get("ETag") };
  };
  watched.push(look);
  return () => turn(look);
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

// Looks at everything that is watched, over and over, and tells how the service is.
export async function start(service) {
  document.querySelector("#banner").textContent =
    `${service} is not answering. What you see may be old; trying again…`;
  for (;;) {
    const answered = await Promise.all([turn(showState), ...watched.map(turn)]);
    document.querySelector("#banner").hidden = answered.every(Boolean);
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
  const facts = [
    ["Service", state.status, state.status !== "ready"],
    ["Broker", state.broker, state.broker === "down"],
    ["Waiting to be sent", state.outbox_waiting, state.outbox_waiting > 0],
    ...behind.map(([stream, count]) => [`Behind in ${stream}`, count ?? "unknown", count !== 0]),
    ["Dead events", state.dead, state.dead > 0],
  ];
  const shown = facts
    .filter(([, value]) => value !== undefined)
    .map(([term, value, warns]) =>
      make("div", { className: warns ? "warn" : "" }, [make("dt", {}, term), make("dd", {}, value)]),
    );
  document.querySelector("#state").replaceChildren(...shown);
}

// An element with properties and children; what is not an element becomes text, never markup.
export function make(tag, properties = {}, children = []) {
  const { data = {}, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, data);
  element.append(...[children].flat().map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

// Lets a list show one element for each row, in their order, and keeps those that are there: the
// keyboard's focus, and what a screen reader reads, stay where they are.
export function showRows(list, rows, build, keyOf = (row) => row.id) {
  const there = new Map(Array.from(list.children, (child) => [child.dataset.key, child]));
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
    if (place >= 0) old.replaceWith(made);
    made.querySelectorAll("button, input")[place]?.focus();
    return made;
  });
  wanted.forEach((element, position) => {
    if (list.children[position] !== element) list.insertBefore(element, list.children[position]);
  });
  while (list.children.length > wanted.length) list.lastChild.remove();
}

// Prices are whole numbers of the smallest coin: 4000 is shown as 40.00.
export function money(price) {
  const coins = String(price % 100).padStart(2, "0");
  return `${Math.floor(price / 100).toLocaleString("en")}.${coins}`;
}

export function parseMoney(text) {
  const parts = /^\s*(\d{1,10})(?:[.,](\d{1,2}))?\s*$/.exec(text);
  if (!parts) throw new Refusal(422, { detail: "A price is written like 40 or 40.00." });
  return Number(parts[1]) * 100 + Number((parts[2] ?? "").padEnd(2, "0"));
}

export function time(moment) {
  const parts = { dateStyle: "medium", timeStyle: "medium" };
  return make("time", { dateTime: moment }, new Date(moment).toLocaleString("en-GB", parts));
}

export function note(element, text, bad = false) {
  element.textContent = text;
  element.classList.toggle("bad", bad);
  element.hidden = !text;
}

// Lets a form do something when it is sent, once at a time, and tells what came of it.
export function onSubmit(form, action) {
  const told = form.querySelector(".note");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.dataset.busy) return;
    form.dataset.busy = "yes";
    try {
      note(told, (await action()) ?? "");
    } catch (error) {
      note(told, explain(error), true);
    } finally {
      delete form.dataset.busy;
    }
  });
}
