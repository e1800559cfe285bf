"""The journal."""

from peewee import BigIntegerField, BlobField, CharField, CompositeKey


def up(migrator, db):
    class Entry(db.Model):
        stream = CharField()
        epoch = BlobField()
        sequence = BigIntegerField()
        body = BlobField()

        class Meta:
            legacy_table_names = False
            primary_key = CompositeKey("stream", "epoch", "sequence")
            without_rowid = True

    db.create_tables([Entry])
