"""Names as they are searched: without case, and with accents composed."""

from peewee import TextField, chunked

from shop.users import folded

ROWS_AT_ONCE = 1000
FOLD = """UPDATE "user" SET folded_name = folded.column2
          FROM (VALUES {}) AS folded WHERE id = folded.column1"""


def up(migrator, db):
    # It may be null, so that an older version can go on adding users beside this one.
    migrator.migrate(migrator.add_column("user", "folded_name", TextField(null=True)))
    users = db.execute_sql('SELECT id, name FROM "user"').fetchall()
    mark = db.param
    for some in chunked(users, ROWS_AT_ONCE):
        values = [value for user_id, name in some for value in (user_id, folded(name))]
        pairs = ", ".join([f"({mark}, {mark})"] * len(some))
        db.execute_sql(FOLD.format(pairs), values)
