"""What all services are made of: a database, an outbox, and the exchange of events."""

from messaging.dead_letters import DeadLetters
from messaging.exchange import Exchange, transport
from messaging.inbox import Handlers
from messaging.outbox import Outbox
from messaging.retention import Retention
from runtime.database import database_of
from runtime.lifecycle import Task
from runtime.settings import Settings


class Service:
    """The parts of a service, of which each adds its own; nothing is opened or started yet.

    It writes one stream. ``tasks`` are the threads that it needs, in the order of their start.
    """

    def __init__(self, settings: Settings, name: str, writes: str) -> None:
        self.settings = settings
        self.database = database_of(settings, name, "runtime", "messaging", name)
        self.outbox = Outbox(self.database, stream=writes, source=f"/{name}")

    def exchanges(self, reads: dict[str, Handlers]) -> None:
        """Let it apply these streams, by the tables of their handlers."""
        self.dead_letters = DeadLetters(self.database, reads)
        name = self.database.packages[-1]
        broker = transport(self.settings, name, self.outbox.stream, reads)
        self.exchange = Exchange(self.database, self.outbox, reads, broker)
        retention = Retention(self.database, self.settings.retention_days)
        self.tasks: list[Task] = [retention, self.exchange]
