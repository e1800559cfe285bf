"""An index of the unpaid orders, for metrics; beside 0003_folded_names, so the next is 0004."""

UNPAID = """CREATE INDEX "order_unpaid" ON "order" ("paid_at", "placed_at") \
WHERE ("paid_at" IS NULL)"""


def up(migrator, db):
    db.execute_sql(UNPAID)
