// The warehouse: items with their status, to be added and to be toggled.

import {
  explain,
  finder,
  make,
  money,
  newKey,
  note,
  number,
  onSubmit,
  parseMoney,
  post,
  put,
  showRows,
  start,
  watch,
} from "/shared/page.js";

const PAGE = 60; // rows at a time

const find = (id) => document.getElementById(id);
let items = [];
let shown = PAGE;

function showItems() {
  const isFound = finder(find("search").value);
  const status = find("status").value;
  const found = items.filter(
    ({ name, active }) =>
      (status === "" || String(active) === status) && isFound(name),
  );
  showRows(find("items"), found.slice(0, shown), row);
  find("more").hidden = found.length <= shown;
  find("found").textContent = items.length
    ? `${number(found.length)} of ${number(items.length)}`
    : "There is nothing here yet: add the first item.";
}

function row(item) {
  const { id, name, price, active } = item;
  const change = make(
    "button",
    {
      type: "button",
      className: "small",
      ariaLabel: active ? `Stop selling ${name}` : `Sell again: ${name}`,
    },
    active ? "Stop selling" : "Sell again",
  );
  // One key for each change of what is shown: a click after a lost answer does not undo it.
  let key = newKey();
  change.addEventListener("click", async () => {
    if (await toggle(id, key, change)) key = newKey();
  });
  return make("tr", {}, [
    make("td", { className: "number" }, id),
    make("td", { data: { label: "Name" } }, name),
    make("td", { className: "end money", data: { label: "Price" } }, money(price)),
    make(
      "td",
      { data: { label: "Status" } },
      make("span", { className: active ? "pill good" : "pill" }, active ? "for sale" : "not for sale"),
    ),
    make("td", { className: "end", data: { label: "Change" } }, change),
  ]);
}

// Returns whether it succeeded. Until the answer is there, the button takes no second click.
async function toggle(id, key, change) {
  if (change.ariaBusy) return false;
  change.ariaBusy = "true";
  try {
    await put(`/api/items/${id}/toggle_status`, key);
    note(find("toggle-note"), "");
    await look();
    return true;
  } catch (error) {
    note(find("toggle-note"), explain(error), true);
    return false;
  } finally {
    change.ariaBusy = null;
  }
}

let key = newKey();
find("new").addEventListener("input", () => (key = newKey()));
onSubmit(find("new"), async () => {
  const price = parseMoney(find("price").value);
  const item = await post("/api/item", { item: { name: find("name").value, price } }, key);
  key = newKey();
  find("new").reset();
  find("name").focus();
  await look();
  return `${item.name} is for sale at ${money(item.price)}.`;
});

function filter() {
  shown = PAGE;
  showItems();
}

find("search").addEventListener("input", filter);
find("status").addEventListener("change", filter);
find("more").addEventListener("click", () => {
  shown += PAGE;
  showItems();
});

const look = watch(
  () => "/api/items",
  (rows) => {
    items = rows;
    showItems();
  },
);
start("The warehouse");
