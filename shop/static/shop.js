// The storefront: items, a cart that outlives the page, and my orders as they get paid.

import {
  finder,
  keep,
  kept,
  make,
  money,
  newKey,
  number,
  onSubmit,
  post,
  showRows,
  start,
  time,
  watch,
} from "/shared/page.js";

const PAGE = 60; // cards at a time
const ORDERS = 20;
const PEOPLE = 8; // found at a time
const LATE_MS = 10_000; // a payment takes milliseconds
const ADDED_MS = 3000;

const find = (id) => document.getElementById(id);
let items = [];
let areKnown = false; // the items, from the shop
let shown = PAGE;
let ordersShown = ORDERS;

// What the browser keeps: who I am, and what is in the cart, by item id, with its name and price.
// `key` stands for this purchase: however often it is sent, it makes one order.
const isWhole = (number) => Number.isSafeInteger(number) && number >= 0;
const isUser = (value) => value.id > 0 && isWhole(value.id) && typeof value.name === "string";
const isLine = ([id, line]) =>
  String(line.id) === id &&
  isWhole(line.id) &&
  isWhole(line.price) &&
  isWhole(line.quantity - 1) &&
  typeof line.name === "string";
const isCart = ({ key, lines }) => /^[0-9a-f]{32}$/.test(key) && Object.entries(lines).every(isLine);
let user = kept("user", isUser);
let cart = kept("cart", isCart) ?? { key: newKey(), lines: {} };

function keepCart(lines) {
  cart = { key: newKey(), lines };
  keep("cart", cart);
  showCart();
}

function put(item, quantity) {
  const { [item.id]: _, ...others } = cart.lines;
  const line = { id: item.id, name: item.name, price: item.price, quantity };
  keepCart(quantity > 0 ? { ...others, [item.id]: line } : others);
}

const inCart = (item) => cart.lines[item.id]?.quantity ?? 0;

// --- items

function showItems() {
  const isFound = finder(find("search").value);
  const found = items.filter(({ name }) => isFound(name));
  const cards = found.slice(0, shown).map((item) => ({ ...item, quantity: inCart(item) }));
  showRows(find("items"), cards, card);
  find("more").hidden = found.length <= shown;
  find("found").textContent = items.length
    ? `${number(found.length)} of ${number(items.length)}`
    : "";
  find("no-items").hidden = found.length > 0 || !areKnown;
  find("no-items").textContent = items.length
    ? "No item matches that."
    : "There is nothing for sale yet: add items on the Warehouse page.";
}

function card(item) {
  const initial = Array.from(item.name)[0].toUpperCase();
  return make("li", { className: "item" }, [
    make("div", { className: `emblem hue-${item.id % 4}` }, [
      make("span", { ariaHidden: "true" }, initial),
      ...(item.quantity ? [make("span", { className: "pill good" }, `${item.quantity} in cart`)] : []),
    ]),
    make("h3", {}, item.name),
    make("div", { className: "row" }, [
      make("span", { className: "money" }, money(item.price)),
      button("Add", `Add ${item.name} to the cart`, () => add(item)),
    ]),
  ]);
}

let forgetAdded;

function add(item) {
  put(item, inCart(item) + 1);
  find("added").textContent = `${item.name} is in the cart.`;
  clearTimeout(forgetAdded);
  forgetAdded = setTimeout(() => (find("added").textContent = ""), ADDED_MS);
}

function button(text, label, action) {
  const made = make("button", { type: "button", className: "small", ariaLabel: label }, text);
  made.addEventListener("click", action);
  return made;
}

// --- cart

const isGone = (line) => areKnown && !items.some(({ id }) => id === line.id);

function showCart() {
  const lines = Object.values(cart.lines).map((line) => ({
    ...line,
    ...items.find(({ id }) => id === line.id),
    gone: isGone(line),
  }));
  showRows(find("lines"), lines, cartLine);
  const total = lines.reduce((sum, { price, quantity }) => sum + price * quantity, 0);
  find("total").textContent = money(total);
  find("sum").textContent = money(total);
  find("count").textContent = lines.reduce((sum, { quantity }) => sum + quantity, 0);
  find("checkout").querySelector(".total").hidden = lines.length === 0;
  find("no-lines").hidden = lines.length > 0;
  find("buy").disabled = lines.length === 0;
  showItems();
}

function cartLine(line) {
  const parts = [
    make("span", {}, line.name),
    make("span", { className: "money end" }, money(line.price * line.quantity)),
    make("div", { className: "row" }, [
      button("−", `Remove one ${line.name}`, () => put(line, inCart(line) - 1)),
      make("span", {}, line.quantity),
      button("+", `Add one ${line.name}`, () => put(line, inCart(line) + 1)),
    ]),
    button("Remove", `Remove ${line.name} from the cart`, () => put(line, 0)),
  ];
  const gone = make("span", { className: "gone" }, "No longer for sale: remove it to buy the rest.");
  return make("li", {}, line.gone ? [...parts, gone] : parts);
}

onSubmit(find("checkout"), async () => {
  if (!user) {
    find("who").focus();
    return "Say who you are first.";
  }
  const { key, lines } = cart;
  const item_ids = Object.values(lines).flatMap(({ id, quantity }) => Array(quantity).fill(id));
  if (!item_ids.length) return "";
  const order = await post("/api/checkout", { user_id: user.id, item_ids }, key);
  if (cart.key === key) keepCart({});
  lookAtOrders();
  return `Order ${short(order.id)} is placed: ${money(order.price)}.`;
});

// --- who I am

function choose(chosen) {
  user = chosen;
  keep("user", user);
  if (Object.keys(cart.lines).length) keepCart(cart.lines); // another buyer, another purchase
  ordersShown = ORDERS;
  orders = [];
  find("orders").replaceChildren();
  find("late").hidden = true;
  find("older").hidden = true;
  find("no-orders").hidden = user !== null;
  find("no-orders").textContent = "Say who you are to see your orders.";
  find("who").value = "";
  showMe();
  lookAtOrders(true);
}

function showMe() {
  find("me").hidden = user === null;
  find("strangers").hidden = user !== null;
  find("my-name").textContent = user ? `${user.name} (${user.id})` : "";
  showPeople();
}

// The users found by a part of their name, and the one found by number; each with the text that was
// searched for, since an answer may arrive while somebody types on.
const who = () => find("who").value.trim();
const isNumber = (text) => /^[1-9]\d*$/.test(text) && Number.isSafeInteger(Number(text));
const numberPath = (id) => `/api/users?limit=1${id > 1 ? `&after=${id - 1}` : ""}`;
const namePath = (name) => `/api/users?limit=${PEOPLE}&name=${encodeURIComponent(name)}`;
let named = { text: "", users: [] };
let numbered = { text: "", users: [] };
const looksForPeople = [
  watch(
    () => (who() ? namePath(who()) : null),
    (users) => {
      named = { text: who(), users };
      showPeople();
    },
  ),
  watch(
    () => (isNumber(who()) ? numberPath(Number(who())) : null),
    (users) => {
      numbered = { text: who(), users: users.filter(({ id }) => String(id) === who()) };
      showPeople();
    },
  ),
];

function showPeople() {
  const [known] = numbered.text === who() ? numbered.users : [];
  const others = who() ? named.users.filter(({ id }) => id !== known?.id) : [];
  const found = known ? [known, ...others] : others;
  showRows(find("people"), found, (person) => {
    const text = `${person.name} (${person.id})`;
    return make("li", {}, button(text, `I am ${text}`, () => meet(person)));
  });
  const isAnswered =
    named.text === who() && (!isNumber(who()) || numbered.text === who()) && who() !== "";
  find("nobody").textContent =
    isAnswered && found.length === 0
      ? "Nobody has that name or number."
      : isAnswered && named.users.length === PEOPLE
        ? "There may be others: type more of the name."
        : "";
}

function meet(person) {
  choose(person);
  find("leave").focus();
}

find("who").addEventListener("input", () => {
  showPeople();
  for (const look of looksForPeople) look();
});

find("leave").addEventListener("click", () => {
  choose(null);
  find("who").focus();
});

let signUpKey = newKey();
find("name").addEventListener("input", () => (signUpKey = newKey()));
onSubmit(find("new-user"), async () => {
  const made = await post("/api/user", { name: find("name").value }, signUpKey);
  signUpKey = newKey();
  find("new-user").reset();
  meet(made);
});

// A shop whose database is a new one does not know me, or takes me for somebody else.
function checkMe([found]) {
  if (found?.id !== user.id || found.name !== user.name) choose(null);
}

// --- my orders

const short = (id) => id.slice(0, 8);

let orders = [];
let aheadMs = 0; // of this clock, the shop's is

function showOrders(found, answer) {
  orders = found;
  aheadMs = (Date.parse(answer.headers.get("Date")) || Date.now()) - Date.now();
  showRows(find("orders"), orders, order);
  find("no-orders").hidden = orders.length > 0;
  find("no-orders").textContent = `${user.name} has bought nothing yet.`;
  find("older").hidden = !answer.headers.get("Link");
  showLate();
}

function showLate() {
  const isLate = ({ status, placed_at }) =>
    status === "placed" && Date.now() + aheadMs - Date.parse(placed_at) > LATE_MS;
  find("late").hidden = !(user && orders.some(isLate));
}

function order({ id, items: lines, price, status, placed_at, paid_at }) {
  const paid = status === "paid";
  return make("li", { className: "order", data: { order: id } }, [
    make("div", { className: "row spread" }, [
      make("h3", { title: id }, `Order ${short(id)}`),
      make("span", { className: paid ? "pill good" : "pill" }, status),
      make("strong", { className: "money" }, money(price)),
    ]),
    make("ul", {}, lines.map(({ name, quantity }) => make("li", {}, `${quantity} × ${name}`))),
    make("ol", { className: "timeline", ariaLabel: `What happened to order ${short(id)}` }, [
      make("li", {}, ["placed ", time(placed_at)]),
      paid
        ? make("li", {}, ["paid ", time(paid_at)])
        : make("li", { className: "next" }, "waiting for the payment"),
    ]),
  ]);
}

find("older").addEventListener("click", () => {
  ordersShown = Math.min(ordersShown + ORDERS, 1000);
  lookAtOrders();
});

// --- everything together

find("search").addEventListener("input", () => {
  shown = PAGE;
  showItems();
});
find("more").addEventListener("click", () => {
  shown += PAGE;
  showItems();
});
window.addEventListener("storage", () => {
  // Another tab of this shop may have changed it.
  cart = kept("cart", isCart) ?? cart;
  showCart();
});

watch(
  () => "/api/items",
  (rows) => {
    items = rows;
    areKnown = true;
    showCart();
  },
);
watch(() => (user ? numberPath(user.id) : null), checkMe);
const lookAtOrders = watch(
  () => (user ? `/api/orders?user_id=${user.id}&limit=${ordersShown}` : null),
  showOrders,
);
showMe();
showCart();
setInterval(showLate, 1000);
start("The shop");
