"""The tables of the outbox and the inbox; a change here needs the next file in ``migrations``."""

from peewee import AutoField, BigIntegerField, BlobField, CharField, CompositeKey, TextField

from runtime.storage.database import Table


class Head(Table):
    """Where a writer stands; one row, whose lock makes commit order the sequence order."""

    epoch = BlobField()
    sequence = BigIntegerField(default=0)
    acked = BigIntegerField(default=0)  # written now and then: where a start begins to compare
    problem = TextField(null=True)  # why no event is taken: the journal contradicts this database


class Outbox(Table):
    """Every event that this database has published or has yet to publish."""

    sequence = BigIntegerField(primary_key=True)
    body = BlobField()


class Cursor(Table):
    """A reader's place in a stream."""

    stream = CharField(primary_key=True)
    epoch = BlobField()
    sequence = BigIntegerField()


class Inbox(Table):
    """Every event that was applied, as it was received."""

    stream = CharField()
    epoch = BlobField()
    sequence = BigIntegerField()
    type = CharField()
    body = BlobField()
    applied_at = CharField(index=True)

    class Meta:
        primary_key = CompositeKey("stream", "epoch", "sequence")


class RetentionClock(Table):
    """The last time of the wall clock that `messaging.retention` believed; at most one row."""

    believed_at = CharField()


class DeadLetter(Table):
    """An event that could not be applied, set aside with its error."""

    id = AutoField()
    stream = CharField()
    epoch = BlobField()
    sequence = BigIntegerField()
    body = BlobField()
    error = TextField()
    died_at = CharField()
