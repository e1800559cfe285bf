"""How the pages look and behave: what they show, on which screens, and to whom."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Browser
from tests.conftest import eventually
from tests.processes import SERVICES

AddItem = Callable[..., dict[str, Any]]
MARKUP = "<img src=x onerror=\"document.title='owned'\"><b>Bold</b> & 'co'"
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
        who = '{"id": 1, "name": "Kesha"}'
        browser.run("localStorage.setItem('user', arguments[0])", who)
        browser.open(name)
        eventually(lambda: browser.all("#items button"))[0].click()
        eventually(lambda: browser.all("#orders li"))
    else:
        eventually(lambda: browser.all("tbody tr"))
    browser.sees("ready", "#state")


def test_names_stay_text(browser: Browser, add_item: AddItem) -> None:
    """Whatever is in a name is shown as it is written, and does nothing."""
    stock(browser, add_item, MARKUP)
    for name in SERVICES:
        open_filled(browser, name)
        title = browser.driver.title
        if name == "shop":
            for place in ("#items", "#user", "#lines", "#orders"):
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
    browser.button("Take Sisal swing out of sale").click()
    browser.button("Put Sisal swing back in sale")
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


@pytest.mark.parametrize(
    ("name", "price", "told"),
    [
        ("Millet", "4.000,00", "written like 40 or 40.00"),
        ("Millet", "-1", "written like 40 or 40.00"),
        ("Millet", "10000000.01", "less than or equal to 1000000000"),
        ("   ", "1", "at least 1 character"),
    ],
)
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


def test_the_shop_is_searched(browser: Browser, add_item: AddItem) -> None:
    for name in ("Millet, 5 kg", "Millet sprays", "Perch"):
        add_item(name, 100)
    browser.open("shop")
    browser.sees("3 of 3")
    browser.fill("#search", "millet")
    browser.sees("2 of 3")
    assert "Perch" not in browser.text("#items")
    browser.fill("#search", "parrot")
    browser.sees("Nothing is called so.")


def test_the_ledger_sums_and_pays(browser: Browser) -> None:
    """More payments than it looks at each time; per user, all of them, and a direct one."""
    world = browser.world
    for number in range(60):
        world.post("payment", "/api/payment", {"user_id": 1 + number % 2, "price": 100 + number})
    browser.open("payment")
    browser.sees("60 payments, 77.70 in all")
    assert len(browser.all("#payments tr")) == 60
    sums = [row.text.split() for row in browser.all("#users tr")]
    assert sums == [["user", "2", "30", "39.00"], ["user", "1", "30", "38.70"]]

    browser.find("#user option[value='1']").click()
    browser.sees("30 payments, 38.70 in all")
    browser.fill("#payer", "1")
    browser.fill("#amount", "0,30")
    browser.button("Pay").click()
    browser.sees("Payment 61 of 0.30 succeeded.")
    browser.sees("31 payments, 39.00 in all")
    assert browser.text("#payments tr").split()[0] == "61"
    browser.fill("#payer", "nobody")
    browser.fill("#amount", "1")
    browser.button("Pay").click()
    browser.sees("valid integer", "#direct .note")
    assert len(world.get("payment", "/api/payments")) == 61


def test_the_state_of_the_service_is_shown(browser: Browser, add_item: AddItem) -> None:
    add_item("Millet", 4000)
    for name in SERVICES:
        browser.open(name)
        for fact in ("Service", "ready", "Broker", "up", "Waiting to be sent", "Dead events"):
            browser.sees(fact, "#state")
    assert "Behind in orders" in browser.text("#state")
    browser.world.kill("broker")
    browser.open("inventory")
    browser.sees("down", "#state .warn dd")
    browser.world.post("inventory", "/api/item", {"item": {"name": "Perch", "price": 1}})
    eventually(lambda: "Waiting to be sent\n1" in browser.text("#state"))
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


@pytest.mark.parametrize("width", [390, 320])
def test_on_a_phone(browser: Browser, add_item: AddItem, width: int) -> None:
    """Nothing is wider than the screen, whatever the names, and what one taps is large enough."""
    stock(browser, add_item, "Millet", LONG)
    browser.emulate(width, 844)
    for name in SERVICES:
        open_filled(browser, name)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        heights = browser.run(
            "return [...document.querySelectorAll('main button, main input, main select')]"
            ".filter(each => each.checkVisibility()).map(each => each.offsetHeight)"
        )
        assert heights
        assert min(heights) >= 40


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_everybody_can_use_them(
    browser: Browser, add_item: AddItem, scheme: str, width: int
) -> None:
    """axe finds nothing wrong: names, roles, contrasts, in light and in dark."""
    package = importlib.util.find_spec("axe_core_python")
    assert package and package.origin
    axe = (Path(package.origin).parent / "axe.min.js").read_text()
    stock(browser, add_item, "Millet", "Perch")
    browser.emulate(width, 900, scheme)
    for name in SERVICES:
        open_filled(browser, name)
        browser.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
        found = browser.driver.execute_async_script(
            "axe.run().then(({violations}) => arguments[0](violations))"
        )
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []


def test_dark_is_dark(browser: Browser) -> None:
    shades = []
    for scheme in ("light", "dark"):
        browser.emulate(1280, 900, scheme)
        browser.open("shop")
        colour = browser.find("body").value_of_css_property("background-color")
        shades.append(sum(map(int, colour.partition("(")[2].rstrip(")").split(",")[:3])))
    bright, dark = shades
    assert bright > 600
    assert dark < 150
