"""Answers kept under idempotency keys."""

from peewee import BlobField, CharField, CompositeKey, IntegerField


def up(migrator, db):
    class KeptAnswer(db.Model):
        path = CharField()
        key = CharField()
        fingerprint = BlobField()
        status = IntegerField()
        location = CharField(null=True)
        body = BlobField()
        kept_at = CharField(index=True)

        class Meta:
            legacy_table_names = False
            primary_key = CompositeKey("path", "key")

    db.create_tables([KeptAnswer])
