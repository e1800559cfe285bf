"""A fourth service: how much each user has paid so far. ``python -m examples.loyalty``"""

from service import Event, Handlers, Service

TABLE = "CREATE TABLE IF NOT EXISTS loyalty (user_id INTEGER PRIMARY KEY, paid INTEGER)"
ADD = """INSERT INTO loyalty VALUES (?, ?)
         ON CONFLICT (user_id) DO UPDATE SET paid = paid + excluded.paid"""


class Loyalty(Service):
    """It serves no HTTP, and publishes nothing yet; its stream would be ``loyalty``."""

    name = writes = "loyalty"

    def handlers(self) -> dict[str, Handlers]:
        """What it listens to."""
        return {"payments": {"payment.succeeded": self.count}}

    def prepare(self) -> None:
        """Make the table; a service with a package of its own has migrations for that."""
        self.database.execute_sql(TABLE)

    def count(self, events: list[Event]) -> None:
        """Add up payments, in the transaction in which the reader moves on."""
        for event in events:
            self.database.execute_sql(ADD, (event.data["user_id"], event.data["price"]))


if __name__ == "__main__":
    Loyalty.main()
