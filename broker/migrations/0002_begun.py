"""Since when there is this journal: always, as far as anybody knows, if it has entries already."""

from peewee import CharField

from runtime.process.clock import timestamp

ALWAYS = "1970-01-01T00:00:00.000Z"


def up(migrator, db):
    class Begun(db.Model):
        at = CharField()

        class Meta:
            legacy_table_names = False

    db.create_tables([Begun])
    has_entries = db.execute_sql("SELECT 1 FROM entry LIMIT 1").fetchone()
    Begun.insert(at=ALWAYS if has_entries else timestamp()).execute()
