"""Rebuilds the catalogue from the first event on, while the shop sells from the old one."""

import argparse
import os
import time
from typing import TYPE_CHECKING

from peewee import chunked

from messaging.event import Event
from messaging.exchange import transport
from messaging.follower import Received
from messaging.inbox import place_of
from messaging.replay import Replayed, catch_up
from runtime.process.commands import Command
from runtime.process.output import deliver
from shop.catalogue import Row
from shop.handlers import ItemChanged, handlers

if TYPE_CHECKING:
    from shop.app import Shop  # it has this as a command

STEP_ITEMS = 250  # replaced in one transaction, which takes some 5 ms
PAUSE_S = 0.02  # between two of them, for buyers


class Replica:
    """The catalogue in memory, built from its events."""

    def __init__(self, types: set[str]) -> None:
        self.rows: dict[int, Row] = {}
        self.applied = self.dead = 0
        self._types = types
        self._epoch = b""

    def apply(self, received: Received) -> None:
        """Apply an event; events come in order, and a new epoch is a new warehouse."""
        try:
            event = Event.parse("items", received.place, received.body)
            item = ItemChanged.model_validate(event.data) if event.type in self._types else None
        except ValueError:
            self.dead += 1
            return
        self.applied += 1
        if item:
            if event.place.epoch != self._epoch:
                self._epoch = event.place.epoch
                self.rows.clear()
            known = self.rows.get(item.id)
            if not known or known.version < item.version:
                self.rows[item.id] = Row(**item.model_dump(), epoch=self._epoch)


def _run(shop: "Shop", _: argparse.Namespace) -> int:
    """Build a second catalogue beside the first, and copy the differences to the first, in steps.

    Each step waits until the second has applied as many events as the first.
    """
    broker = transport(shop.settings, f"shop-replay-{os.getpid()}", None, ["items"])
    follower = Replayed("items")
    replica = Replica({*handlers(shop.catalogue, shop.orders)["items"]})
    broker.open()
    try:
        catch_up(follower, broker, place_of(shop.database, "items"), replica.apply)
        for item_ids in chunked(shop.catalogue.differences(replica.rows), STEP_ITEMS):
            replaced = False
            while not replaced:
                with shop.database.write():
                    if replaced := follower.place >= (place := place_of(shop.database, "items")):
                        shop.catalogue.replace(item_ids, replica.rows)
                if not replaced:
                    catch_up(follower, broker, place, replica.apply)
            time.sleep(PAUSE_S)
    finally:
        broker.close()
    counts = f"{replica.applied} events; {replica.dead} could not be applied"
    deliver(f"the catalogue was rebuilt from {counts}")
    return min(replica.dead, 1)


COMMAND: Command = Command(
    name="replay",
    about="rebuild the catalogue from the first event on",
    examples="%(prog)s",
    run=_run,
)
