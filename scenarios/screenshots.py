"""Pictures of the three pages, stocked and in use, for the README: ``docs/images/*.png``.

Needs what ``requirements-dev.txt`` has, and Debian's chromium and chromium-driver.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic_core import from_json
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from runtime import ROOT
from runtime.process.commands import command_line
from scenarios.demo import ASSORTMENT
from scenarios.system import System, free_settings

FOLDER = ROOT / "docs" / "images"
SIZE = 1280, 860
SWITCHES = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
PATIENCE_S = 15


def main() -> None:
    """Start a shop of its own, let some people buy, and take the pictures."""
    command_line(__doc__, "%(prog)s", "python -m scenarios.screenshots").parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        system = System(Path(folder), free_settings(Path(folder)))
        try:
            system.start()
            system.wait_until_ready()
            stock(system)
            take(system)
        finally:
            system.end()


def stock(system: System) -> None:
    """The assortment, some people, and what they have bought so far."""

    def post(name: str, path: str, body: object) -> Any:
        return from_json(system.ask(name, "POST", path, body).body)

    for name, price in ASSORTMENT:
        post("inventory", "/api/item", {"item": {"name": name, "price": price}})
    system.ask("inventory", "PUT", "/api/items/9/toggle_status")
    for name in ("Kesha", "Coco", "Polly"):
        post("shop", "/api/user", {"name": name})
    for_sale = len(ASSORTMENT) - 1
    while len(from_json(system.ask("shop", "GET", "/api/items").body)) != for_sale:
        time.sleep(0.05)
    for user_id, item_ids in ((2, [4, 11]), (3, [6]), (1, [1, 2, 2]), (2, [15, 16]), (1, [13])):
        post("shop", "/api/checkout", {"user_id": user_id, "item_ids": item_ids})
        time.sleep(1.1)  # so that their times differ
    post("payment", "/api/payment", {"user_id": 3, "price": 2500})


def take(system: System) -> None:
    """One picture a page, and one of the shop on a dark phone."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for switch in SWITCHES:
        options.add_argument(switch)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    wait = WebDriverWait(driver, PATIENCE_S)

    def show(name: str, width: int, height: int, scheme: str) -> None:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1.5, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
        driver.get(f"http://127.0.0.1:{system.settings.http_port(name)[0]}/")
        wait.until(lambda _: driver.find_elements(By.CSS_SELECTOR, "body:not(.loading)"))

    try:
        for name in ("inventory", "payment", "shop"):
            show(name, *SIZE, "light")
            if name == "shop":
                driver.find_element(By.ID, "who").send_keys("Kesha")
                wait.until(lambda _: driver.find_elements(By.CSS_SELECTOR, "#people button"))
                driver.find_element(By.CSS_SELECTOR, "#people button").click()
                for position in (0, 9, 9):  # a card that is in the cart is another element
                    driver.find_elements(By.CSS_SELECTOR, "#items button")[position].click()
            time.sleep(3.5)  # until what has arrived, or was added, has faded
            driver.save_screenshot(str(FOLDER / f"{name}.png"))
        show("shop", 390, 844, "dark")
        time.sleep(1.5)
        driver.save_screenshot(str(FOLDER / "shop-phone.png"))
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
