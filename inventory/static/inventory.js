// The warehouse: items with their status, to be added and to be toggled.

import {
  explain,
  make,
  money,
  newKey,
  note,
  onSubmit,
  parseMoney,
  post,
  put,
  showRows,
  start,
  watch,
} from "/shared/page.js";

const PAGE = 100; // rows at a time

const find = (id) => document.getElementById(id);
let items = [];
let shown = PAGE;

function showItems() {
  const words = find("search").value.toLowerCase().split(/\s+/);
  const status = find("status").value;
  const found = items.filter(
    ({ name, active }) =>
      words.every((word) => name.toLowerCase().includes(word)) &&
      (status === "" || String(active) === status),
  );
  showRows(find("items"), found.slice(0, shown), row);
  find("more").hidden = found.length <= shown;
  find("found").textContent = items.length
    ? `${found.length} of ${items.length}`
    : "There is nothing here yet: add the first item.";
}

function row(item) {
  const { id, name, price, active } = item;
  const change = make(
    "button",
    {
      type: "button",
      className: "small",
      ariaLabel: active ? `Take ${name} out of sale` : `Put ${name} back in sale`,
    },
    active ? "Take out" : "Put back",
  );
  change.addEventListener("click", () => toggle(id, change));
  return make("tr", { className: "arrived" }, [
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

// A toggle is no POST and has no key: until the answer is there, the button takes no second click.
async function toggle(id, change) {
  if (change.ariaBusy) return;
  change.ariaBusy = "true";
  try {
    await put(`/api/items/${id}/toggle_status`);
    note(find("toggle-note"), "");
    await look();
  } catch (error) {
    note(find("toggle-note"), explain(error), true);
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
