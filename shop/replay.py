"""The catalogue built anew from the first event on, while the shop sells from the old one."""

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from messaging.exchange import transport
from messaging.inbox import Reader, count_dead, place_of
from messaging.replay import catch_up
from runtime.commands import Command
from runtime.database import SqliteFile
from runtime.output import say
from shop.app import Shop
from shop.catalogue import Catalogue
from shop.handlers import handlers


def _run(shop: Shop, _: argparse.Namespace) -> int:
    """Build a second catalogue beside the first; the two change places in one transaction."""
    way = transport(shop.settings, f"shop-replay-{os.getpid()}", "orders", ["items"])
    with TemporaryDirectory() as folder:
        database = SqliteFile(Path(folder) / "shop.db", "messaging", "shop")
        database.open()
        catalogue = Catalogue(database)
        reader = Reader(database, "items", handlers(catalogue, shop.orders)["items"])
        way.open()
        try:
            replaced = False
            while not replaced:
                catch_up(reader, way, at_least=place_of(shop.database, "items"))
                with shop.database.write():
                    if reader.place >= place_of(shop.database, "items"):  # it hears more meanwhile
                        shop.catalogue.replace(catalogue)
                        replaced = True
            dead = count_dead(database)
        finally:
            way.close()
            database.close()
    say(f"the catalogue was built anew from {reader.applied} events; {dead} could not be applied")
    return min(dead, 1)


COMMAND = Command(
    name="replay",
    about="build the catalogue anew from the first event on",
    examples="%(prog)s",
    arguments=lambda _: None,
    run=_run,
)
