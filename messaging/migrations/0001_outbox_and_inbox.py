"""The outbox with its head, the inbox with its cursors, and dead letters."""

import os
import time

from peewee import BigIntegerField, BlobField, CharField, CompositeKey, TextField


def up(migrator, db):
    class Base(db.Model):
        class Meta:
            legacy_table_names = False

    class Head(Base):
        epoch = BlobField()
        sequence = BigIntegerField(default=0)
        acked = BigIntegerField(default=0)

    class Outbox(Base):
        sequence = BigIntegerField(primary_key=True)
        body = BlobField()

    class Cursor(Base):
        stream = CharField(primary_key=True)
        epoch = BlobField()
        sequence = BigIntegerField()

    class Inbox(Base):
        stream = CharField()
        epoch = BlobField()
        sequence = BigIntegerField()
        type = CharField()
        body = BlobField()
        applied_at = CharField(index=True)

        class Meta:
            primary_key = CompositeKey("stream", "epoch", "sequence")

    class DeadLetter(Base):
        stream = CharField()
        epoch = BlobField()
        sequence = BigIntegerField()
        body = BlobField()
        error = TextField()
        died_at = CharField()

    db.create_tables([Head, Outbox, Cursor, Inbox, DeadLetter])
    Head.insert(epoch=time.time_ns().to_bytes(8, "big") + os.urandom(8)).execute()
