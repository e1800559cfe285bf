"""Buying in the browser: by mouse, by keyboard, in a hurry, and while something is down."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import Browser
from tests.conftest import eventually

PEOPLE = """WITH RECURSIVE number (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM number LIMIT 30000)
            INSERT INTO user (id, name, folded_name)
            SELECT i, 'Parrot no. ' || i, 'parrot no. ' || i FROM number"""
AddItem = Callable[..., dict[str, Any]]


def orders(browser: Browser) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = browser.world.get("shop", "/api/orders?user_id=1")
    return found


def test_from_the_warehouse_to_the_ledger(browser: Browser) -> None:
    """Add an item, see it in the shop, buy two, see it paid, and see it in the ledger."""
    browser.open("inventory")
    browser.fill("#name", "  Millet, 5 kg ")
    browser.fill("#price", "1040.5")
    browser.button("Add").click()
    browser.sees("Millet, 5 kg is for sale at 1,040.50.")
    browser.sees("1,040.50", "#items")

    browser.open("shop")
    browser.sees("Millet, 5 kg", "#items")
    browser.sign_up("Kesha")
    browser.button("Add Millet, 5 kg to the cart").click()
    browser.button("Add one Millet, 5 kg").click()
    browser.sees("2,081.00", "#total")
    browser.button("Buy").click()
    browser.sees("is placed: 2,081.00", "#checkout")
    browser.sees("2 \u00d7 Millet, 5 kg", "#orders")
    browser.sees("paid", "#orders .pill")
    timeline = [line.text.split()[0] for line in browser.all("#orders .timeline li")]
    assert timeline == ["placed", "paid"]
    assert len(browser.all("#orders .timeline time")) == 2
    assert browser.text("#count") == "0"
    order = orders(browser)[0]

    browser.open("payment")
    browser.sees(f"order {order['id'][:8]}", "#payments")
    browser.sees("2,081.00", "#payments")
    browser.sees("1 payment, 2,081.00 in all")
    browser.sees("2,081.00", "#users")

    assert browser.errors() == []
    asked = [url for url, _ in browser.requests()]
    assert asked
    assert not [url for url in asked if not url.startswith("http://127.0.0.1:")]


def test_payment_may_be_down(browser: Browser, add_item: AddItem) -> None:
    """The ledger says so, and the shop takes an order, which is paid once payment is back.

    A buyer who has waited for long is told that it is safe.
    """
    add_item("Cuttlebone", 150)
    browser.open("payment")
    browser.sees("Nothing has been paid yet")
    assert not browser.find("#banner").is_displayed()
    browser.world.kill("payment")
    browser.sees("Payment is not answering", "#banner")
    assert browser.find("#payments-title").is_displayed()

    browser.open("shop")
    browser.sign_up("Kesha")
    browser.button("Add Cuttlebone to the cart").click()
    browser.button("Buy").click()
    browser.sees("waiting for the payment", "#orders")
    assert browser.text("#orders .pill") == "placed"
    assert not browser.find("#banner").is_displayed()
    assert not browser.find("#late").is_displayed()
    browser.sees("Your order is safe", "#late", timeout_s=30)

    browser.world.start("payment")
    eventually(lambda: browser.text("#orders .pill") == "paid")
    assert not browser.find("#late").is_displayed()
    browser.open("payment")
    browser.sees("1 payment, 1.50 in all")


def test_a_page_comes_back_with_its_service(browser: Browser, add_item: AddItem) -> None:
    """Down while it is shown: a banner over what was there; up again: as if nothing had been."""
    add_item("Perch", 1150)
    browser.open("shop")
    browser.sees("Perch", "#items")
    browser.world.kill("shop")
    browser.sees("The shop is not answering", "#banner")
    assert "Perch" in browser.text("#items")
    browser.world.start("shop")
    eventually(lambda: not browser.find("#banner").is_displayed())


def test_a_double_click_makes_one_order(browser: Browser, add_item: AddItem) -> None:
    add_item("Swing", 1490)
    browser.open("shop")
    browser.sign_up("Kesha")
    browser.button("Add Swing to the cart").click()
    browser.run("const buy = document.querySelector('#buy'); buy.click(); buy.click();")
    browser.sees("is placed", "#checkout")
    browser.run("document.querySelector('#checkout').requestSubmit();")
    browser.sees("paid", "#orders .pill")
    assert len(orders(browser)) == 1


def test_an_answer_that_was_lost_makes_no_second_order(browser: Browser, add_item: AddItem) -> None:
    """The shop stands still, the buyer gives up waiting and buys again, even after a reload."""
    add_item("Swing", 1490)
    browser.open("shop")
    browser.sign_up("Kesha")
    browser.button("Add Swing to the cart").click()
    browser.world.processes["shop"].send_signal(signal.SIGSTOP)
    browser.button("Buy").click()
    browser.sees("Nothing is lost: try again.", "#checkout")
    browser.world.processes["shop"].send_signal(signal.SIGCONT)
    eventually(lambda: len(orders(browser)) == 1)
    browser.open("shop")
    browser.button("Buy").click()
    browser.sees("is placed: 14.90", "#checkout")
    assert len(orders(browser)) == 1


def test_the_cart_outlives_the_page_and_an_item(browser: Browser, add_item: AddItem) -> None:
    add_item("Millet", 4000)
    nuts = add_item("Pine nuts", 1890)
    browser.open("shop")
    browser.sign_up("Kesha")
    for name in ("Millet", "Pine nuts", "Millet"):
        browser.button(f"Add {name} to the cart").click()
    browser.open("shop")
    browser.sees("98.90", "#total")
    assert browser.text("#count") == "3"
    browser.sees("You are Kesha (1)", "#me")

    browser.world.ask("inventory", "PUT", f"/api/items/{nuts['id']}/toggle_status")
    browser.sees("No longer for sale", "#lines")
    browser.button("Buy").click()
    browser.sees("item 2 is not for sale now", "#checkout")
    browser.button("Remove Pine nuts from the cart").click()
    browser.button("Remove one Millet").click()
    browser.button("Buy").click()
    browser.sees("is placed: 40.00", "#checkout")
    browser.sees("It is empty", "#cart")


def test_nobody_buys_without_saying_who(browser: Browser, add_item: AddItem) -> None:
    add_item("Millet", 4000)
    browser.open("shop")
    browser.button("Add Millet to the cart").click()
    browser.button("Buy").click()
    browser.sees("Say who you are first.", "#checkout")
    assert browser.run("return document.activeElement.id") == "who"


@pytest.mark.timeout(120)
def test_by_keyboard_alone(browser: Browser, add_item: AddItem) -> None:
    """From the address bar to a paid order with Tab, Enter and letters; the focus is seen."""
    from selenium.webdriver.common.action_chains import ActionChains  # noqa: PLC0415
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415

    add_item("Millet", 4000)
    browser.open("shop")
    browser.sees("Millet", "#items")

    def press(*keys: str) -> None:
        ActionChains(browser.driver).send_keys(*keys).perform()

    def tab_to(name: str) -> None:
        for _ in range(40):
            press(Keys.TAB)
            if browser.driver.switch_to.active_element.accessible_name == name:
                style = browser.driver.switch_to.active_element.value_of_css_property
                assert style("outline-style") == "solid"
                return
        raise AssertionError(f"no Tab leads to {name!r}")

    tab_to("Search")
    press("mill")
    tab_to("Add Millet to the cart")
    press(Keys.ENTER)
    tab_to("I am new, my name is")
    press("Kesha", Keys.ENTER)
    browser.sees("You are Kesha (1)", "#me")
    tab_to("Add one Millet")
    press(Keys.SPACE)
    browser.sees("80.00", "#total")
    assert browser.driver.switch_to.active_element.accessible_name == "Add one Millet"
    tab_to("Buy")
    press(Keys.ENTER)
    browser.sees("paid", "#orders .pill")
    assert [order["price"] for order in orders(browser)] == [8000]


def test_a_new_shop_knows_the_visitor_no_more(browser: Browser, add_item: AddItem) -> None:
    """Whoever was signed up in a database that is gone is asked again who they are."""
    add_item("Millet", 4000)
    browser.open("shop")
    browser.sign_up("Kesha")
    browser.world.rows("shop", "DELETE FROM user")
    eventually(lambda: browser.kept("user") is None)
    browser.sees("I am new", "#strangers")


def test_a_buyer_who_is_chosen_again_sees_her_orders(browser: Browser, add_item: AddItem) -> None:
    """Nobody, somebody else, and she again, whether or not a poll came in between."""
    browser.world.post("shop", "/api/user", {"name": "Coco"})
    order = browser.world.checkout(
        {"user_id": 1, "item_ids": [add_item("Millet", 4000)["id"]]},
    )
    eventually(lambda: browser.world.is_paid(order))
    browser.world.post("shop", "/api/user", {"name": "Gosha"})
    browser.open("shop")
    for name, number, told in 2 * (("Coco", 1, "paid"), ("Gosha", 2, "has bought nothing yet")):
        browser.fill("#who", name)
        browser.button(f"I am {name} ({number})").click()
        browser.sees(told)
        assert len(browser.all("#orders li.order")) == (1 if number == 1 else 0)
        browser.button("Somebody else").click()
        browser.sees("Say who you are to see your orders.")
        assert browser.all("#orders li") == []


def test_a_buyer_is_found_by_name_or_number(browser: Browser) -> None:
    """Among very many, with accents composed or not, in any case."""
    world = browser.world
    world.post("shop", "/api/user", {"name": "Adam"})
    world.rows("shop", PEOPLE)
    world.post("shop", "/api/user", {"name": "Jose\u0301 \u00c5ngstr\u00f6m"})
    browser.open("shop")
    browser.enter("#who", "jos\u00e9 a\u030a")
    browser.sees("(30002)", "#people")
    assert len(browser.all("#people li")) == 1
    browser.fill("#who", "parrot")
    browser.sees("type more of the name", "#nobody")
    assert len(browser.all("#people li")) == 8
    browser.fill("#who", "nobody at all")
    browser.sees("Nobody has that name or number.", "#nobody")
    for number in ("1", "17777", "30002"):
        browser.fill("#who", number)
        browser.sees(f"({number})", "#people li:first-child")
    browser.fill("#who", "17777")
    browser.button("I am Parrot no. 17777 (17777)").click()
    browser.sees("You are Parrot no. 17777 (17777)", "#me")
    assert browser.kept("user") == {"id": 17777, "name": "Parrot no. 17777"}


REFUSING = """
Object.defineProperty(window, "localStorage", {
  get() { throw new DOMException("refused", "SecurityError"); }
});
"""
FULL = """
Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); };
"""
STRANGE = """
for (const name of ["user", "cart", "parrot-shop.user", "parrot-shop.cart"])
  localStorage.setItem(name, {});
"""
STRANGERS = [
    "'{'",
    "'[[]]'",
    '\'{"id": "1", "name": 7, "key": 1, "lines": {"1": null}}\'',
    f'\'{{"key": "{"0" * 32}", "lines": {{"1": {{"id": 2, "quantity": -1}}}}}}\'',
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "script",
    [REFUSING, FULL, *(STRANGE.replace("{}", text) for text in STRANGERS)],
    ids=["refuses", "is full", *(f"strange {number}" for number in range(len(STRANGERS)))],
)
def test_it_sells_whatever_the_browser_keeps(
    browser: Browser, add_item: AddItem, script: str
) -> None:
    """Nothing, since it refuses or is full, or something strange under our names."""
    add_item("Millet", 4000)
    source = {"source": script}
    added = browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
    try:
        browser.open("shop")
        browser.sees("Millet", "#items")
        browser.sign_up("Kesha")
        browser.button("Add Millet to the cart").click()
        browser.button("Buy").click()
        browser.sees("is placed: 40.00", "#checkout")
        browser.sees("paid", "#orders .pill")
    finally:
        browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    assert len(orders(browser)) == 1
    assert browser.errors() == []


def test_the_cart_is_in_reach_on_a_phone(browser: Browser, add_item: AddItem) -> None:
    """At the top and the end of the page; what is added is seen and told."""
    for number in range(12):
        add_item(f"Item {number}", 100)
    browser.emulate(390, 844)
    browser.open("shop")
    browser.sees("Item 11", "#items")
    browser.button("Add Item 3 to the cart").click()
    browser.sees("Item 3 is in the cart.", "#added")
    browser.sees("1 in cart", "#items")
    for place in (0, 10**6):
        browser.run("window.scrollTo(0, arguments[0])", place)
        box = browser.run("return document.querySelector('#to-cart').getBoundingClientRect()")
        assert 0 < box["top"] < box["bottom"] <= 844
    assert browser.text("#to-cart").split() == ["Cart", "(1)", "1.00"]
    browser.run("window.scrollTo(0, 0)")
    browser.find("#to-cart").click()
    eventually(lambda: 0 <= browser.run(TOP) < 400)
    eventually(lambda: not browser.text("#added"))


TOP = "return document.querySelector('#cart').getBoundingClientRect().top"
