"""Buying in the browser: by mouse, by keyboard, in a hurry, and while something is down."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import Browser
from tests.conftest import eventually

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
    browser.button("One Millet, 5 kg more").click()
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
    browser.sees("user 1", "#users")

    assert browser.errors() == []
    asked = [url for url, _ in browser.requests()]
    assert asked
    assert not [url for url in asked if not url.startswith("http://127.0.0.1:")]


def test_payment_may_be_down(browser: Browser, add_item: AddItem) -> None:
    """The ledger says so, and the shop takes an order, which is paid once payment is back."""
    add_item("Cuttlebone", 150)
    browser.open("payment")
    browser.sees("Nothing was paid yet")
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

    browser.world.start("payment")
    eventually(lambda: browser.text("#orders .pill") == "paid")
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
    browser.sees("Kesha", "#user")
    assert browser.run("return document.querySelector('#user').value") == "1"

    browser.world.ask("inventory", "PUT", f"/api/items/{nuts['id']}/toggle_status")
    browser.sees("No longer for sale", "#lines")
    browser.button("Buy").click()
    browser.sees("item 2 is not for sale now", "#checkout")
    browser.button("Remove Pine nuts from the cart").click()
    browser.button("One Millet less").click()
    browser.button("Buy").click()
    browser.sees("is placed: 40.00", "#checkout")
    browser.sees("It is empty", "#cart")


def test_nobody_buys_without_saying_who(browser: Browser, add_item: AddItem) -> None:
    add_item("Millet", 4000)
    browser.open("shop")
    browser.button("Add Millet to the cart").click()
    browser.button("Buy").click()
    browser.sees("Choose who you are first.", "#checkout")
    assert browser.run("return document.activeElement.id") == "user"


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
    browser.sees("Welcome, Kesha.")
    tab_to("One Millet more")
    press(Keys.SPACE)
    browser.sees("80.00", "#total")
    assert browser.driver.switch_to.active_element.accessible_name == "One Millet more"
    tab_to("Buy")
    press(Keys.ENTER)
    browser.sees("paid", "#orders .pill")
    assert [order["price"] for order in orders(browser)] == [8000]


def test_a_new_shop_knows_the_visitor_no_more(browser: Browser, add_item: AddItem) -> None:
    """Whoever was signed up in a database that is gone is asked again who they are."""
    add_item("Millet", 4000)
    browser.open("shop")
    browser.sign_up("Kesha")
    browser.world.kill("shop")
    for path in browser.world.files("shop"):
        path.unlink()
    browser.world.start("shop")
    eventually(lambda: browser.run("return localStorage.getItem('user')") == "null")
    browser.sees("choose…", "#user")
