"""Why the outbox takes no events: a copy, or another process, must know it as well."""

from peewee import TextField


def up(migrator, db):
    migrator.migrate(migrator.add_column("head", "problem", TextField(null=True)))
