"""Moving over: what a service's file holds is copied to a PostgreSQL server, and the file retired.

Places, epochs and ids stay what they were: nobody hears an event twice, or misses one.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peewee import (  # type: ignore[attr-defined]
    SQL,
    AutoField,
    BooleanField,
    Field,
    ForeignKeyField,
    IntegerField,
    UUIDField,
    chunked,
    fn,
    sort_models,
)

from runtime.commands import Command
from runtime.database import Database, SqliteFile, Table, server
from runtime.errors import StartError
from runtime.output import say
from runtime.settings import checked_database_url, without_password

ROWS = 500  # in one statement
PATIENCE = "SET LOCAL idle_in_transaction_session_timeout = 0"  # while the file is being read
LOW_BITS = 2**31 - 1  # of a number: a sum of whole ones may be too large for SQLite
SET_SEQUENCE = "SELECT setval(pg_get_serial_sequence(?, ?), ?)"


def tables(database: Database) -> list[type[Table]]:
    """The models of a database's tables, those first that others refer to."""
    models = Table.__subclasses__()
    own = [model for model in models if model.__module__.split(".")[0] in database.packages]
    return list(sort_models(own))


def copy(source: Database, target: Database) -> int:
    """Put the rows of one database in the place of another's, in the transaction that is open.

    Gives how many there are.
    """
    copied = 0
    for model in reversed(tables(target)):
        model.delete().execute(target)
    for model in tables(target):
        for rows in chunked(model.select().dicts().iterator(source), ROWS):
            model.insert_many(rows).execute(target)
            copied += len(rows)
    return copied


def differences(one: Database, other: Database) -> Iterator[str]:
    """The tables in which the number of rows, or a sum of numbers or lengths, differs."""
    for model in tables(one):
        sums = [fn.COUNT(SQL("*")), *(_sum(field) for field in model._meta.sorted_fields)]
        here, there = (model.select(*sums).tuples().first(each) for each in (one, other))
        if tuple(here) != tuple(there):
            yield f"{model._meta.table_name} ({here[0]} and {there[0]} rows)"


def _sum(field: Field) -> Any:
    match field:
        case IntegerField() | ForeignKeyField():
            return fn.SUM(field.bin_and(LOW_BITS))
        case BooleanField():
            return fn.SUM(field.cast("INTEGER"))
        case UUIDField():
            return fn.COUNT(field)
    return fn.SUM(fn.LENGTH(field))


def _is_new(database: Database) -> bool:
    """Whether there is nothing in it but what the migrations have written."""
    with TemporaryDirectory() as folder:
        new = SqliteFile(Path(folder) / "new.db", *database.packages)
        new.open()
        written = [
            [model.select().count(each) for model in tables(each)] for each in (database, new)
        ]
        new.close()
    return written[0] == written[1]


def _set_sequences(database: Database) -> None:
    """Let new ids go on behind those that were copied."""
    for model in tables(database):
        key = model._meta.primary_key
        if isinstance(key, AutoField) and (newest := model.select(fn.MAX(key)).scalar(database)):
            database.run(SET_SEQUENCE, f'"{model._meta.table_name}"', key.column_name, newest)


def _url(text: str) -> str:
    try:
        return checked_database_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{without_password(text)!r} {error}") from None


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", type=_url, metavar="URL", help="a database that is empty")


def _run(service: Any, arguments: argparse.Namespace) -> int:
    """Copy in one transaction, and retire the file after its commit.

    Again, after a crash between the two, it finds that all is there.
    """
    packages = service.database.packages
    source = SqliteFile(service.settings.data_dir / f"{packages[-1]}.db", *packages)
    if not source.path.exists():
        raise StartError(f"there is no {source}: is DATA_DIR right?")
    target = server(arguments.url, *packages)
    source.claim()
    target.open()
    with source.write():
        with target.write():
            target.run(PATIENCE)
            if _is_new(target):
                copy(source, target)
                _set_sequences(target)
            if differ := list(differences(source, target)):
                raise StartError(f"{target} is not empty, and differs in {', '.join(differ)}")
        source.retire(str(target))
    variable = f"{packages[-1]}_database_url".upper()
    say(f"{packages[-1]} has moved to {target}: start it with {variable}; {source} is retired")
    return 0


COMMAND = Command(
    name="migrate-to",
    about="copy everything to a PostgreSQL database, and retire the file; stop the service first",
    examples="%(prog)s postgresql://parrots@db.example/shop",
    arguments=_arguments,
    run=_run,
)
