"""An index of the orders that are not paid, for those who watch how many there are."""

UNPAID = """CREATE INDEX "order_unpaid" ON "order" ("paid_at", "placed_at") \
WHERE ("paid_at" IS NULL)"""


def up(migrator, db):
    db.execute_sql(UNPAID)
