"""Up to when the wall clock was believed, so that a jump is noticed after a new start, too."""

from peewee import CharField


def up(migrator, db):
    class RetentionClock(db.Model):
        believed_at = CharField()

        class Meta:
            legacy_table_names = False

    db.create_tables([RetentionClock])
