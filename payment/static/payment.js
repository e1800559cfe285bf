// The ledger: payments as they come in, their sums, and a form for a direct one.

import {
  explain,
  getPage,
  make,
  money,
  newKey,
  note,
  number,
  onSubmit,
  parseMoney,
  parseNumber,
  post,
  showRows,
  start,
  time,
  watch,
} from "/shared/page.js";

const PAGE = 50; // rows at a time
const PAYERS = 25;

const find = (id) => document.getElementById(id);
let payments = []; // those that are shown, newest first: the newest page, and those that were asked for
let isEnd = true; // of all that there are

// --- whose payments are shown: a user's, or everybody's

const chosen = () => find("user").value.trim();
const isNumber = (text) => /^[1-9]\d*$/.test(text) && Number.isSafeInteger(Number(text));
const path = (list, query) => {
  if (!chosen()) return `${list}?${query}`;
  return isNumber(chosen()) ? `${list}?user_id=${chosen()}&${query}` : null;
};
const pagePath = () => path("/api/payments", `limit=${PAGE}`);

function choose() {
  payments = [];
  isEnd = true;
  const isWrong = chosen() && !isNumber(chosen());
  note(find("no-user"), isWrong ? "A user's number has digits only." : "", true);
  find("sum").textContent = "";
  showPayments();
  lookAtPayments(true);
  lookAtSum(true);
}

find("user").addEventListener("input", choose);

// --- the rows

// Takes the newest page. Payments do not change, so the older ones stay, if the page overlaps
// them; it does not after very many at once, or with another database.
function take(newest, answer) {
  const known = new Set(payments.map((payment) => JSON.stringify(payment)));
  const meets = newest.some((payment) => known.has(JSON.stringify(payment)));
  const last = newest.at(-1)?.id ?? 0;
  if (!meets) isEnd = !answer.headers.get("Link");
  payments = meets ? [...newest, ...payments.filter(({ id }) => id < last)] : newest;
  showPayments();
}

function showPayments() {
  showRows(find("payments"), payments, row);
  find("more").hidden = isEnd;
}

find("more").addEventListener("click", async () => {
  const wanted = pagePath();
  try {
    const last = payments.at(-1).id;
    const [older, isLast] = await getPage(`${wanted}&after=${last}`);
    if (pagePath() !== wanted || payments.at(-1)?.id !== last) return; // it has changed meanwhile
    payments = [...payments, ...older];
    isEnd = isLast;
    showPayments();
  } catch (error) {
    note(find("no-user"), explain(error), true);
  }
});

function row({ id, user_id, price, order_id, paid_at }) {
  const what = order_id
    ? make("span", { title: order_id }, `order ${order_id.slice(0, 8)}`)
    : make("span", { className: "pill good" }, "direct");
  return make("tr", {}, [
    make("td", { className: "number" }, id),
    make("td", { data: { label: "Paid" } }, time(paid_at)),
    make("td", { data: { label: "User" } }, user_id),
    make("td", { data: { label: "For" } }, what),
    make("td", { className: "end money", data: { label: "Amount" } }, money(price)),
  ]);
}

// --- the sums

function showSum({ count, sum }) {
  const s = count === 1 ? "" : "s";
  const nothing = chosen()
    ? `User ${chosen()} has paid nothing.`
    : "Nothing has been paid yet: buy something in the shop, or pay directly.";
  find("sum").textContent = count
    ? `${number(count)} payment${s}, ${money(sum)} in all`
    : nothing;
}

function showPayers({ users }) {
  showRows(find("users"), users.slice(0, PAYERS), payerRow, ({ user_id }) => user_id);
  find("users-table").hidden = users.length === 0;
  find("no-users").hidden = users.length > 0;
}

function payerRow({ user_id, count, sum }) {
  const button = make(
    "button",
    { type: "button", className: "small", ariaLabel: `${user_id}: show what this user has paid` },
    user_id,
  );
  button.addEventListener("click", () => {
    find("user").value = user_id;
    choose();
  });
  return make("tr", {}, [
    make("td", {}, button),
    make("td", { className: "end" }, number(count)),
    make("td", { className: "end sum" }, money(sum)),
  ]);
}

// --- a direct payment

let key = newKey();
find("direct").addEventListener("input", () => (key = newKey()));
onSubmit(find("direct"), async () => {
  const body = { user_id: parseNumber(find("payer").value), price: parseMoney(find("amount").value) };
  const payment = await post("/api/payment", body, key);
  key = newKey();
  find("direct").reset();
  await Promise.all([lookAtPayments(), lookAtSum(), lookAtPayers()]);
  return `Payment ${payment.id} of ${money(payment.price)} succeeded.`;
});

const lookAtPayments = watch(pagePath, take);
const lookAtSum = watch(() => path("/api/payments/totals", ""), showSum);
const lookAtPayers = watch(() => "/api/payments/totals", showPayers);
start("Payment");
