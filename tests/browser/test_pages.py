"""How the pages look and behave: what they show, on which screens, and to whom."""

import importlib.util
import itertools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Browser
from tests.conftest import eventually
from tests.processes import SERVICES
from tests.test_proxies import haproxy

AddItem = Callable[..., dict[str, Any]]
MARKUP = "<img src=x onerror=\"document.title='owned'\"><b>Bold</b> & 'co'"
MANY = """WITH RECURSIVE number (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM number LIMIT 20000)
          INSERT INTO payment (user_id, price, paid_at, announced)
          SELECT 1 + i % 300, 100, '2026-11-25T10:00:00.000Z', 1 FROM number"""
LONG = "Extraordinarily-long-name-without-any-place-to-break" * 3


def stock(browser: Browser, add_item: AddItem, *names: str) -> None:
    """Items of these names, a user of each, and an order and a direct payment."""
    world = browser.world
    for name in names:
        item = add_item(name, 123456)
        world.post("shop", "/api/user", {"name": name})
    order = world.checkout({"user_id": 1, "item_ids": [item["id"]] * 2})
    eventually(lambda: world.is_paid(order))
    world.post("payment", "/api/payment", {"user_id": 2, "price": 10**12})


def open_filled(browser: Browser, name: str) -> None:
    """Open a page that shows something everywhere: in the shop a user, a cart and an order."""
    browser.open(name)
    if name == "shop":
        (user, *_) = browser.world.get("shop", "/api/users?limit=1")
        browser.put("user", json.dumps(user))
        browser.put("cart", "null")
        browser.open(name)
        eventually(lambda: browser.all("#items button"))[0].click()
        eventually(lambda: browser.all("#orders li"))
    else:
        eventually(lambda: browser.all("tbody tr"))
        browser.sees("works", "#state")


def test_names_stay_text(browser: Browser, add_item: AddItem) -> None:
    """Whatever is in a name is shown as it is written, and does nothing."""
    stock(browser, add_item, MARKUP)
    for name in SERVICES:
        open_filled(browser, name)
        title = browser.driver.title
        if name == "shop":
            for place in ("#items", "#me", "#added", "#lines", "#orders"):
                assert MARKUP in browser.run(
                    "return document.querySelector(arguments[0]).textContent", place
                )
        if name == "inventory":
            assert MARKUP in browser.text("#items")
        assert not browser.all("main img, main b")
        assert browser.driver.title == title != "owned"
    assert browser.errors() == []


def test_the_warehouse_filters_and_toggles(browser: Browser, add_item: AddItem) -> None:
    add_item("Millet, 5 kg", 4000)
    add_item("Sisal swing", 1490)
    browser.open("inventory")
    browser.sees("2 of 2")
    browser.button("Stop selling Sisal swing").click()
    browser.button("Sell again: Sisal swing")
    eventually(lambda: len(browser.world.get("shop", "/api/items")) == 1)

    browser.find("#status option[value=false]").click()
    browser.sees("1 of 2")
    assert [row.text.split("\n")[0][:13] for row in browser.all("#items tr")] == ["2 Sisal swing"]
    browser.find("#status option[value='']").click()
    browser.fill("#search", "KG mil")
    browser.sees("1 of 2")
    assert "Millet" in browser.text("#items")
    browser.fill("#search", "parrot")
    browser.sees("0 of 2")


def test_a_toggle_whose_answer_was_lost_is_not_undone(browser: Browser, add_item: AddItem) -> None:
    """The warehouse stands still, the answer comes too late, and the button is pressed again."""
    add_item("Millet", 4000)
    browser.open("inventory")
    take_out = browser.button("Stop selling Millet")
    browser.world.processes["inventory"].send_signal(signal.SIGSTOP)
    take_out.click()
    browser.sees("Nothing is lost: try again.", "#toggle-note")
    browser.run("arguments[0].click()", take_out)  # it is sent before the page sees the change
    browser.world.processes["inventory"].send_signal(signal.SIGCONT)
    browser.button("Sell again: Millet")
    eventually(lambda: not browser.run("return document.querySelector('#items [aria-busy]')"))
    assert browser.world.get("inventory", "/api/items")[0]["active"] is False
    browser.button("Sell again: Millet").click()
    browser.button("Stop selling Millet").click()
    browser.button("Sell again: Millet")


WRONG = [
    ("Millet", "4.000,00", "an amount like 40 or 40.00"),
    ("Millet", "-1", "an amount like 40 or 40.00"),
    ("Millet", "10000000.01", "less than or equal to 1000000000"),
    ("   ", "1", "at least 1 character"),
]


@pytest.mark.parametrize(("name", "price", "told"), WRONG)
def test_the_warehouse_refuses_wrong_items(
    browser: Browser, name: str, price: str, told: str
) -> None:
    browser.open("inventory")
    browser.fill("#name", name)
    browser.fill("#price", price)
    browser.button("Add").click()
    browser.sees(told, "#new .note")
    assert browser.world.get("inventory", "/api/items") == []
    assert browser.run("return document.querySelector('#price').value") == price


def test_items_are_searched(browser: Browser, add_item: AddItem) -> None:
    """Accents are found in either form."""
    for name in ("Müsli", "MU\u0308SLI, 5 kg", "Muesli", "Perch"):
        add_item(name, 100)
    for name in ("shop", "inventory"):
        browser.open(name)
        browser.sees("4 of 4")
        for asked in ("müs", "MU\u0308S", "mu\u0308s"):
            browser.enter("#search", asked)
            browser.sees("2 of 4")
        assert "Perch" not in browser.text("#items")
    browser.open("shop")
    browser.fill("#search", "parrot")
    browser.sees("No item matches that.")


def test_the_ledger_sums_and_pays(browser: Browser) -> None:
    """More payments than a page holds; of each user, and a direct one."""
    world = browser.world
    for number in range(120):
        world.post("payment", "/api/payment", {"user_id": 1 + number % 2, "price": 100 + number})
    browser.open("payment")
    browser.sees("120 payments, 191.40 in all")
    assert len(browser.all("#payments tr")) == 50
    sums = [row.text.split() for row in browser.all("#users tr")]
    assert sums == [["2", "60", "96.00"], ["1", "60", "95.40"]]
    for shown in (100, 120):
        browser.button("Show more").click()
        eventually(lambda shown=shown: len(browser.all("#payments tr")) == shown)
    assert not browser.find("#more").is_displayed()

    browser.button("1: show what this user has paid").click()
    browser.sees("60 payments, 95.40 in all")
    eventually(lambda: len(browser.all("#payments tr")) == 50)
    browser.fill("#payer", "1")
    browser.fill("#amount", "0,30")
    browser.button("Pay").click()
    browser.sees("Payment 121 of 0.30 succeeded.")
    browser.sees("61 payments, 95.70 in all")
    assert browser.text("#payments tr").split()[0] == "121"
    for nobody in ("nobody", "1e2", "0x10", "1.0", "-1", "9007199254740993"):
        browser.fill("#payer", nobody)
        browser.fill("#amount", "1")
        browser.run("document.querySelector('#direct .note').textContent = ''")
        browser.button("Pay").click()
        browser.sees("valid integer", "#direct .note")
    assert world.get("payment", "/api/payments/totals")["count"] == 121
    most = 2**53 - 1
    browser.fill("#payer", str(most))
    browser.button("Pay").click()
    browser.sees("Payment 122 of 1.00 succeeded.")
    assert world.get("payment", "/api/payments?limit=1")[0]["user_id"] == most


def test_the_ledger_shows_a_users_payments_again(browser: Browser) -> None:
    """A user's, somebody's who has paid nothing, everybody's, and back: each time what there is."""
    for user_id in (1, 2):
        browser.world.post("payment", "/api/payment", {"user_id": user_id, "price": 100})
    browser.open("payment")
    browser.sees("2 payments, 2.00 in all")
    for _ in range(2):
        for chosen, told, count in (
            ("1", "1 payment, 1.00 in all", 1),
            ("3", "User 3 has paid nothing.", 0),
            ("x", "A user's number has digits only.", 0),
            ("", "2 payments, 2.00 in all", 2),
        ):
            browser.enter("#user", chosen)
            browser.sees(told)
            eventually(lambda count=count: len(browser.all("#payments tr")) == count)


def test_the_ledger_fetches_a_page_however_many_payments_there_are(browser: Browser) -> None:
    """Sums come from the server, rows by the page."""
    browser.world.rows("payment", MANY)
    browser.open("payment")
    browser.sees("20,000 payments, 20,000.00 in all")
    eventually(lambda: len(browser.all("#payments tr")) == 50)
    assert len(browser.all("#users tr")) == 25
    size = browser.run(
        "return performance.getEntriesByType('resource').reduce("
        "(sum, each) => sum + each.transferSize, 0)"
    )
    assert 1000 < size < 200_000


def test_the_state_of_the_service_is_shown_to_staff(browser: Browser, add_item: AddItem) -> None:
    """In words of a shop; buyers are not told."""
    add_item("Millet", 4000)
    for name in ("inventory", "payment"):
        browser.open(name)
        for fact in ("This service", "works", "Connection to the others", "up", "News that failed"):
            browser.sees(fact, "#state")
    assert "News of orders not read yet" in browser.text("#state")
    browser.open("shop")
    browser.sees("Millet", "#items")
    assert not browser.all("#state")
    assert "up" not in browser.text("header").split()
    browser.world.kill("broker")
    browser.open("inventory")
    browser.sees("down", "#state .warn dd")
    browser.world.post("inventory", "/api/item", {"item": {"name": "Perch", "price": 1}})
    eventually(lambda: "News not sent yet\n1" in browser.text("#state"))
    assert not browser.find("#banner").is_displayed()


def test_polling_costs_next_to_nothing(browser: Browser, add_item: AddItem) -> None:
    """What has not changed is not sent again."""
    add_item("Millet", 4000)
    for name in SERVICES:
        browser.open(name)
        statuses: list[int] = []

        def unchanged(statuses: list[int] = statuses) -> bool:
            answers = [pair for pair in browser.requests() if "/api/" in pair[0]]
            statuses.extend(status for _, status in answers)
            return statuses.count(304) >= 2

        eventually(unchanged)


def test_on_a_phone(browser: Browser, add_item: AddItem) -> None:
    """No label is broken in two, and what one taps is large enough.

    Nothing is wider than the screen, whatever the names.
    """
    stock(browser, add_item, "Millet", "Perch")
    for longest in ("", LONG):
        if longest:
            stock(browser, add_item, longest)
        for width in (390, 320):
            browser.emulate(width, 844)
            for name in SERVICES:
                open_filled(browser, name)
                assert longest or browser.run(BROKEN) == []
                assert browser.run("return document.documentElement.scrollWidth") <= width
                heights = browser.run(HEIGHTS)
                assert heights
                assert min(heights) >= 40


def test_everybody_can_use_them(browser: Browser, add_item: AddItem) -> None:
    """axe finds nothing wrong: names, roles, contrasts, in light and in dark, which is dark."""
    package = importlib.util.find_spec("axe_core_python")
    assert package and package.origin
    axe = (Path(package.origin).parent / "axe.min.js").read_text()
    stock(browser, add_item, "Millet", "Perch")
    for scheme, width in itertools.product(("light", "dark"), (1280, 390)):
        browser.emulate(width, 900, scheme)
        for name in SERVICES:
            open_filled(browser, name)
            browser.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
            found = browser.driver.execute_async_script(
                "axe.run().then(({violations}) => arguments[0](violations))"
            )
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
        colour = browser.find("body").value_of_css_property("background-color")
        shade = sum(map(int, colour.partition("(")[2].rstrip(")").split(",")[:3]))
        assert shade > 600 if scheme == "light" else shade < 150


def test_the_interface_is_shown_and_tried(browser: Browser) -> None:
    """Swagger UI, from its own service alone: its operations, and one of them carried out."""
    browser.open("shop", "/docs")
    browser.sees("Create a user.", "body")
    browser.find("#operations-users-createUser button").click()
    browser.button("Try it out").click()
    browser.button("Execute").click()
    browser.sees('"name": "Kesha"', ".live-responses-table")
    assert [user["name"] for user in browser.world.get("shop", "/api/users")] == ["Kesha"]
    assert browser.errors() == []
    urls = [url for url, _ in browser.requests() if not url.startswith(("data:", "blob:"))]
    assert urls
    assert all(url.startswith("http://127.0.0.1:") for url in urls)


def test_pages_lead_to_each_other(browser: Browser) -> None:
    titles = {"Shop": "Parrot shop", "Warehouse": "Parrot warehouse", "Ledger": "Parrot ledger"}
    browser.open("shop")
    for there, title in [*titles.items(), *titles.items()]:
        link = next(each for each in browser.all("nav.pages a") if each.text == there)
        link.click()
        eventually(lambda title=title: browser.driver.title == title)
        current = browser.find("nav.pages a[aria-current=page]")
        assert current.text == there
    assert browser.errors() == []


def test_behind_a_proxy_there_are_no_wrong_links(browser: Browser, tmp_path: Path) -> None:
    """What is not reached on its own port has other addresses, which only the proxy knows."""
    browser.open("shop")
    assert browser.find("nav.pages").is_displayed()
    with haproxy(browser.world, tmp_path) as connect:
        browser.driver.get(f"http://127.0.0.1:{connect().port}/")
        browser.sees("There is nothing for sale yet")
        assert not browser.find("nav.pages").is_displayed()


CURRENCIES = {
    "EUR": ("€1,234.50", "1234.5"),
    "JPY": ("¥123,450", "123450"),
    "KWD": ("KWD\u00a0123.450", "123,45"),
}


@pytest.mark.parametrize("currency", CURRENCIES)
def test_prices_have_a_currency(
    browser: Browser, currency: str, request: pytest.FixtureRequest
) -> None:
    """With as many digits as its coins take; the interface and its numbers stay as they are."""
    shown, written = CURRENCIES[currency]
    names = ("inventory", "payment")
    browser.world.kill(*names)
    browser.world.start(*names, CURRENCY=currency)
    request.addfinalizer(lambda: browser.world.kill(*names))
    browser.open("inventory")
    browser.fill("#name", "Cage")
    browser.fill("#price", written)
    browser.button("Add").click()
    browser.sees(f"Cage is for sale at {shown}.")
    browser.sees(f"Price ({currency})", "#new")
    assert browser.world.get("inventory", "/api/items")[0]["price"] == 123450
    browser.world.post("payment", "/api/payment", {"user_id": 1, "price": 123450})
    browser.open("payment")
    browser.sees(f"1 payment, {shown} in all")


STILL = """
const done = arguments[0];
let moved = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) moved += entry.value;
}).observe({ type: "layout-shift", buffered: true });
requestAnimationFrame(() => setTimeout(() => done(moved), 1500));
"""


def test_nothing_moves_while_a_page_loads(browser: Browser, add_item: AddItem) -> None:
    """Empty or filled, on a phone and on a desk."""
    for filled in (False, True):
        if filled:
            stock(browser, add_item, *(f"Item {number}" for number in range(12)))
        for width in (390, 1440):
            browser.emulate(width, 844)
            for name in SERVICES:
                if filled:
                    open_filled(browser, name)
                browser.open(name)
                assert browser.driver.execute_async_script(STILL) < 0.05, (name, width, filled)


HEIGHTS = """
return [...document.querySelectorAll("main button, main input, main select")]
  .filter((each) => each.checkVisibility()).map((each) => each.offsetHeight);
"""
BROKEN = """
const broken = [];
for (const each of document.querySelectorAll("label, button, a, th, dt, h1, h2, .pill")) {
  const walker = document.createTreeWalker(each, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    for (const word of walker.currentNode.data.matchAll(/\\S+/g)) {
      const range = document.createRange();
      range.setStart(walker.currentNode, word.index);
      range.setEnd(walker.currentNode, word.index + word[0].length);
      if (range.getClientRects().length > 1) broken.push(word[0]);
    }
  }
}
return broken;
"""
