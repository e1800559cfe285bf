"""The table of kept answers; its history is in ``migrations``."""

from peewee import BlobField, CharField, CompositeKey, IntegerField

from runtime.storage.database import Table


class KeptAnswer(Table):
    """The first answer of a path under an idempotency key, which is a quoted string."""

    path = CharField()
    key = CharField()  # without a limit on PostgreSQL, too
    fingerprint = BlobField()
    status = IntegerField()
    location = CharField(null=True)
    body = BlobField()
    kept_at = CharField(index=True)

    class Meta:
        primary_key = CompositeKey("path", "key")
