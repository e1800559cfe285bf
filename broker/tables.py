"""The tables of the journal; a change here needs the next file in ``migrations``."""

from peewee import BigIntegerField, BlobField, CharField, CompositeKey

from runtime.storage.database import Table


class Entry(Table):
    """An event of a stream, exactly as its writer sent it."""

    stream = CharField()
    epoch = BlobField()
    sequence = BigIntegerField()
    body = BlobField()

    class Meta:
        primary_key = CompositeKey("stream", "epoch", "sequence")
        without_rowid = True


class Begun(Table):
    """When this journal was made; one row."""

    at = CharField()
