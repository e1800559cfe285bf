"""A browser, and the pages of a running system to open in it."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.conftest import eventually, own_settings
from tests.pairs import EMBEDDED, new_world
from tests.processes import ALL, SERVICES, World

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
WHY = "needs requirements-dev.txt and Debian's chromium and chromium-driver"
TABLES = {
    "inventory": ["item"],
    "shop": ["order_line", "order", "user", "item"],
    "payment": ["payment", "total"],
}
SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # it refuses to run as root with one
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

try:
    from selenium import webdriver
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.remote.webelement import WebElement
except ImportError:
    webdriver = None


class Browser:
    """A window on the pages of one system."""

    def __init__(self, driver: Any, world: World) -> None:
        self.driver = driver
        self.world = world

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.world.settings.http_port(name)[0]}"

    def open(self, name: str, path: str = "/") -> None:
        """Open a page of a service."""
        self.driver.get(self.url(name) + path)

    def find(self, selector: str) -> "WebElement":
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> "list[WebElement]":
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def button(self, label: str) -> "WebElement":
        """The button that is called so, as a screen reader would call it."""

        def named() -> "list[WebElement]":
            with suppress(StaleElementReferenceException):  # the page has just changed
                return [each for each in self.all("button") if each.accessible_name == label]
            return []

        return eventually(named)[0]

    def fill(self, selector: str, text: str) -> None:
        box = self.find(selector)
        box.clear()
        box.send_keys(text)

    def enter(self, selector: str, text: str) -> None:
        """Put a text of any characters into a box, in one step."""
        self.run(
            "const box = document.querySelector(arguments[0]); box.value = arguments[1];"
            "box.dispatchEvent(new Event('input'))",
            selector,
            text,
        )

    def sees(self, text: str, selector: str = "main", timeout_s: float = 15) -> None:
        """Wait until an element shows a text."""
        eventually(lambda: text in self.text(selector), timeout_s)

    def text(self, selector: str) -> str:
        # In one step, since the page may change between two.
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.driver.execute_script(script, selector))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def sign_up(self, name: str) -> None:
        self.fill("#name", name)
        self.button("Sign up").click()
        self.sees(f"You are {name.strip()} (", "#me")

    def put(self, name: str, value: str) -> None:
        """Put something where the shop keeps its own; the page must be of the shop."""
        self.run("localStorage.setItem(`parrot-shop.${arguments[0]}`, arguments[1])", name, value)

    def kept(self, name: str) -> Any:
        """What the shop keeps under this name."""
        text = self.run("return localStorage.getItem(`parrot-shop.${arguments[0]}`)", name)
        return json.loads(text or "null")

    def errors(self) -> list[str]:
        """What went wrong on the console since the last look."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[tuple[str, int]]:
        """Address and status of each answered request since the last look."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append((message["params"]["request"]["url"], 0))
            if message["method"] == "Network.responseReceived":
                answer = message["params"]["response"]
                found.append((answer["url"], answer["status"]))
        return found

    def emulate(self, width: int, height: int, scheme: str = "light") -> None:
        """Take the place of a screen of this size, in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture(scope="module")
def _driver() -> Iterator[Any]:
    if webdriver is None or not (shutil.which(CHROMIUM) and shutil.which(DRIVER)):
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(WHY)
        pytest.skip(WHY)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in SWITCHES:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """Real processes, which run on between the tests."""
    settings = own_settings(tmp_path_factory.mktemp("browser"))
    with new_world(EMBEDDED, settings, request) as processes:
        yield processes


def empty(world: World) -> None:
    """Everything up and quiet, and nothing stocked, whatever became of it in the test before."""
    for name in world.processes:
        world.signal(name, signal.SIGCONT)
    world.start(*[name for name in ALL if name not in world.processes])
    for name in ALL:
        world.wait_until_up(name)
    eventually(world.is_drained)
    for name, tables in TABLES.items():
        for table in tables:
            world.rows(name, f'DELETE FROM "{table}"')


@pytest.fixture
def browser(_driver: Any, world: World) -> Iterator[Browser]:
    """A window of a desktop's size, which knows nothing; all four processes run, with no data."""
    empty(world)
    window = Browser(_driver, world)
    for name in SERVICES:
        origin = {"origin": window.url(name), "storageTypes": "local_storage"}
        _driver.execute_cdp_cmd("Storage.clearDataForOrigin", origin)
    _driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    window.emulate(1280, 900)
    window.errors(), window.requests()  # of the test before
    yield window
    _driver.get("about:blank")  # it asks nobody any more


@pytest.fixture
def add_item(world: World) -> Callable[..., dict[str, Any]]:
    """Add an item to the warehouse, and wait until the shop sells it."""

    def add(name: str, price: int) -> dict[str, Any]:
        answer = world.post("inventory", "/api/item", {"item": {"name": name, "price": price}})
        item: dict[str, Any] = answer.json()
        eventually(lambda: item in world.get("shop", "/api/items"))
        return item

    return add
