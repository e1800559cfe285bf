// The storefront: items, a cart that outlives the page, and my orders as they get paid.

import { make, money, newKey, onSubmit, post, showRows, start, time, watch } from "/shared/page.js";

const PAGE = 60; // cards at a time
const ORDERS = 20;
const USERS = 1000; // the most that the service lists at once

const find = (id) => document.getElementById(id);
let items = [];
let shown = PAGE;
let ordersShown = ORDERS;

// What the browser keeps: who I am, and what is in the cart, by item id, with its name and price.
// `key` stands for this purchase: however often it is sent, it makes one order.
const kept = (name, otherwise) => JSON.parse(localStorage.getItem(name) ?? "null") ?? otherwise;
let user = kept("user", null);
let cart = kept("cart", { key: newKey(), lines: {} });

function keepCart(lines) {
  cart = { key: newKey(), lines };
  localStorage.setItem("cart", JSON.stringify(cart));
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
  const words = find("search").value.toLowerCase().split(/\s+/);
  const found = items.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)));
  showRows(find("items"), found.slice(0, shown), card);
  find("more").hidden = found.length <= shown;
  find("found").textContent = items.length ? `${found.length} of ${items.length}` : "";
  find("no-items").hidden = found.length > 0;
  find("no-items").textContent = items.length
    ? "Nothing is called so."
    : "There is nothing for sale yet: the warehouse has a page for that.";
}

function card(item) {
  const initial = Array.from(item.name)[0].toUpperCase();
  return make("li", { className: "item" }, [
    make("div", { className: `emblem hue-${item.id % 4}`, ariaHidden: "true" }, initial),
    make("h3", {}, item.name),
    make("div", { className: "row" }, [
      make("span", { className: "money" }, money(item.price)),
      button("Add", `Add ${item.name} to the cart`, () => put(item, inCart(item) + 1)),
    ]),
  ]);
}

function button(text, label, action) {
  const made = make("button", { type: "button", className: "small", ariaLabel: label }, text);
  made.addEventListener("click", action);
  return made;
}

// --- cart

const isGone = (line) => items.length > 0 && !items.some(({ id }) => id === line.id);

function showCart() {
  const lines = Object.values(cart.lines).map((line) => ({
    ...line,
    ...items.find(({ id }) => id === line.id),
    gone: isGone(line),
  }));
  showRows(find("lines"), lines, cartLine);
  const total = lines.reduce((sum, { price, quantity }) => sum + price * quantity, 0);
  find("total").textContent = money(total);
  find("count").textContent = lines.reduce((sum, { quantity }) => sum + quantity, 0);
  find("checkout").querySelector(".total").hidden = lines.length === 0;
  find("no-lines").hidden = lines.length > 0;
  find("buy").disabled = lines.length === 0;
}

function cartLine(line) {
  const parts = [
    make("span", {}, line.name),
    make("span", { className: "money end" }, money(line.price * line.quantity)),
    make("div", { className: "row" }, [
      button("−", `One ${line.name} less`, () => put(line, inCart(line) - 1)),
      make("span", {}, line.quantity),
      button("+", `One ${line.name} more`, () => put(line, inCart(line) + 1)),
    ]),
    button("Remove", `Remove ${line.name} from the cart`, () => put(line, 0)),
  ];
  const gone = make("span", { className: "gone" }, "No longer for sale: remove it to buy the rest.");
  return make("li", {}, line.gone ? [...parts, gone] : parts);
}

onSubmit(find("checkout"), async () => {
  if (!user) {
    find("user").focus();
    return "Choose who you are first.";
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
  localStorage.setItem("user", JSON.stringify(user));
  if (Object.keys(cart.lines).length) keepCart(cart.lines); // another buyer, another purchase
  ordersShown = ORDERS;
  find("orders").replaceChildren();
  find("no-orders").hidden = false;
  find("no-orders").textContent = user
    ? `${user.name} has bought nothing yet.`
    : "Choose who you are, and your orders are here.";
  lookAtOrders();
}

async function showUsers(users) {
  const known = users.some(({ id }) => id === user?.id);
  if (user && !known) {
    // Beyond those that are listed; or the shop's database is a new one, which knows nobody.
    if (users.length < USERS) choose(null);
    else users = [...users, user];
  }
  const options = users.map(({ id, name }) =>
    make("option", { value: id, selected: id === user?.id }, `${name} (${id})`),
  );
  find("user").replaceChildren(make("option", { value: "" }, "choose…"), ...options);
}

find("user").addEventListener("change", ({ target }) => {
  const name = target.selectedOptions[0].textContent.replace(/ \(\d+\)$/, "");
  choose(target.value ? { id: Number(target.value), name } : null);
});

let signUpKey = newKey();
find("name").addEventListener("input", () => (signUpKey = newKey()));
onSubmit(find("new-user"), async () => {
  const made = await post("/api/user", { name: find("name").value }, signUpKey);
  signUpKey = newKey();
  find("new-user").reset();
  choose(made);
  await lookAtUsers();
  return `Welcome, ${made.name}.`;
});

// --- my orders

const short = (id) => id.slice(0, 8);

function showOrders(orders, answer) {
  showRows(find("orders"), orders, order);
  find("no-orders").hidden = orders.length > 0;
  find("older").hidden = !answer.headers.get("Link");
}

function order({ id, items: lines, price, status, placed_at, paid_at }) {
  const paid = status === "paid";
  return make("li", { className: "order arrived", data: { order: id } }, [
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
  // Another tab of this shop has changed it.
  cart = kept("cart", cart);
  showCart();
});

watch(
  () => "/api/items",
  (rows) => {
    items = rows;
    showItems();
    showCart();
  },
);
const lookAtUsers = watch(() => `/api/users?limit=${USERS}`, showUsers);
const lookAtOrders = watch(
  () => (user ? `/api/orders?user_id=${user.id}&limit=${ordersShown}` : null),
  showOrders,
);
showCart();
start("The shop");
