// The ledger: payments as they come in, their sums, and a form for a direct one.

import {
  get,
  make,
  money,
  newKey,
  onSubmit,
  parseMoney,
  post,
  showRows,
  start,
  time,
  watch,
} from "/shared/page.js";

const PAGE = 100; // rows at a time
const NEWEST = 50; // looked at each time
const BATCH = 1000; // the most that the service lists at once
const TOP_USERS = 100;

const find = (id) => document.getElementById(id);
const payments = new Map(); // by id, each read once: a payment does not change
const users = new Map(); // by id: how many payments, and their sum
let total = 0;
let shown = PAGE;

// Takes the newest payments, and those before them until it meets one that is here.
async function take(newest) {
  if (newest.some(({ id, paid_at }) => (payments.get(id)?.paid_at ?? paid_at) !== paid_at)) {
    location.reload(); // another database, in which these are other payments
    return;
  }
  let batch = newest;
  const fresh = [];
  for (;;) {
    const unknown = batch.filter(({ id }) => !payments.has(id));
    fresh.push(...unknown);
    if (unknown.length < batch.length || batch.length === 0) break;
    batch = await get(`/api/payments?limit=${BATCH}&after=${batch.at(-1).id}`);
  }
  for (const payment of fresh) if (!payments.has(payment.id)) add(payment); // it may run twice
  showAll();
}

function add(payment) {
  payments.set(payment.id, payment);
  total += payment.price;
  const { count, sum } = users.get(payment.user_id) ?? { count: 0, sum: 0 };
  users.set(payment.user_id, { id: payment.user_id, count: count + 1, sum: sum + payment.price });
}

function showAll() {
  const chosen = Number(find("user").value);
  const all = [...payments.values()].filter(({ user_id }) => !chosen || user_id === chosen);
  const newestFirst = all.sort((one, other) => other.id - one.id);
  showRows(find("payments"), newestFirst.slice(0, shown), row);
  find("more").hidden = all.length <= shown;
  const sum = chosen ? (users.get(chosen)?.sum ?? 0) : total;
  const s = all.length === 1 ? "" : "s";
  find("sum").textContent = all.length
    ? `${all.length.toLocaleString("en")} payment${s}, ${money(sum)} in all`
    : "Nothing was paid yet: buy something in the shop, or pay directly.";

  const bySum = [...users.values()].sort((one, other) => other.sum - one.sum || one.id - other.id);
  showRows(find("users"), bySum.slice(0, TOP_USERS), userRow);
  find("users-table").hidden = bySum.length === 0;
  find("no-users").hidden = bySum.length > 0;
  const byId = bySum.slice(0, TOP_USERS).sort((one, other) => one.id - other.id);
  showRows(
    find("user"),
    [{ id: "", name: "everybody" }, ...byId.map(({ id }) => ({ id, name: `user ${id}` }))],
    ({ id, name }) => make("option", { value: id, selected: id === (chosen || "") }, name),
  );
}

function row({ id, user_id, price, order_id, paid_at }) {
  const what = order_id
    ? make("span", { title: order_id }, `order ${order_id.slice(0, 8)}`)
    : make("span", { className: "pill good" }, "direct");
  return make("tr", { className: "arrived" }, [
    make("td", { className: "number" }, id),
    make("td", { data: { label: "Paid" } }, time(paid_at)),
    make("td", { data: { label: "User" } }, user_id),
    make("td", { data: { label: "For" } }, what),
    make("td", { className: "end money", data: { label: "Amount" } }, money(price)),
  ]);
}

function userRow({ id, count, sum }) {
  return make("tr", {}, [
    make("td", {}, `user ${id}`),
    make("td", { className: "end" }, count.toLocaleString("en")),
    make("td", { className: "end money" }, money(sum)),
  ]);
}

let key = newKey();
find("direct").addEventListener("input", () => (key = newKey()));
onSubmit(find("direct"), async () => {
  const body = { user_id: Number(find("payer").value), price: parseMoney(find("amount").value) };
  const payment = await post("/api/payment", body, key);
  key = newKey();
  find("direct").reset();
  await look();
  return `Payment ${payment.id} of ${money(payment.price)} succeeded.`;
});

find("user").addEventListener("change", () => {
  shown = PAGE;
  showAll();
});
find("more").addEventListener("click", () => {
  shown += PAGE;
  showAll();
});

const look = watch(() => `/api/payments?limit=${NEWEST}`, take);
start("Payment");
