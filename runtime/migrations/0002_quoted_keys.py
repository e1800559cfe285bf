"""Keys are kept as quoted strings, which are longer than what they quote."""

from peewee import SqliteDatabase


def up(migrator, db):
    if not isinstance(db, SqliteDatabase):  # which does not look at lengths
        db.execute_sql("ALTER TABLE kept_answer ALTER COLUMN key TYPE text")
