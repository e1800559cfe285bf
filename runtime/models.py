"""The table of kept answers; its history is in ``migrations``."""

from peewee import BlobField, CharField, CompositeKey, IntegerField

from runtime.database import Table


class KeptAnswer(Table):
    """The first answer that a path gave under an idempotency key."""

    path = CharField()
    key = CharField()
    fingerprint = BlobField()
    status = IntegerField()
    location = CharField(null=True)
    body = BlobField()
    kept_at = CharField(index=True)

    class Meta:
        primary_key = CompositeKey("path", "key")
