"""Moving: copies a service's file to a PostgreSQL server, and retires the file.

Places, epochs and ids stay the same, so no reader gets an event twice, or misses one.
"""

import argparse
from collections.abc import Callable, Iterator
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
    fn,
    sort_models,
)

from runtime.process.commands import Command
from runtime.process.errors import StartError
from runtime.process.output import deliver
from runtime.process.progress import Progress
from runtime.process.settings import checked_database_url, without_password
from runtime.storage.database import Database, Table
from runtime.storage.factory import server
from runtime.storage.sqlite import SqliteFile

SHOWN_ROWS = 1000  # between two looks at whether it is time to show the progress
LOW_BITS = 2**31 - 1  # of a number: the sum of whole numbers may be too large for SQLite

Rows = Iterator[tuple[Any, ...]]


def tables(database: Database) -> list[type[Table]]:
    """The models of the tables to copy; those that others refer to come first."""
    models = [model for model in Table.__subclasses__() if not model.kept_by_triggers]
    own = [model for model in models if model.__module__.split(".")[0] in database.packages]
    return list(sort_models(own))


def copy(
    source: Database, target: Database, through: Callable[[Rows], Rows] = lambda rows: rows
) -> None:
    """Replace the rows of one database by those of another, in the open transaction.

    The rows go ``through`` a function, which may count them.
    """
    for model in reversed(tables(target)):
        model.delete().execute(target)
    for model in tables(target):
        columns = ", ".join(f'"{field.column_name}"' for field in model._meta.sorted_fields)
        rows = source.run(f'SELECT {columns} FROM "{model._meta.table_name}"')
        target.load(model, through(rows))


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


def _url(text: str) -> str:
    try:
        return checked_database_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{without_password(text)!r} {error}") from None


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", type=_url, metavar="URL", help="a database that is empty")


def _copy_all(source: Database, target: Database) -> None:
    """Copy everything, and show the progress."""
    total = sum(model.select().count(source) for model in tables(source))
    copied = 0
    progress = Progress(lambda: f"{copied:,} of {total:,} rows copied")

    def counted(rows: Rows) -> Rows:
        nonlocal copied
        for row in rows:
            copied += 1
            if copied % SHOWN_ROWS == 0:
                progress.show()
            yield row

    copy(source, target, counted)
    for model in tables(target):
        if isinstance(model._meta.primary_key, AutoField):
            target.let_ids_follow(model)
    progress.clear()
    deliver(f"{copied:,} rows copied; comparing them")


def _run(service: Any, arguments: argparse.Namespace) -> int:
    """Copy in one transaction, and retire the file after its commit.

    Run again after a crash between the two, it finds all rows there.
    """
    packages = service.database.packages
    setting = f"{service.name}_database_url"
    if not hasattr(service.settings, setting):
        raise StartError(f"there is no setting {setting.upper()}: this service stays on its file")
    source = SqliteFile(service.settings.data_dir / f"{service.name}.db", *packages)
    if not source.path.exists():
        raise StartError(f"there is no {source}: is DATA_DIR right?")
    target = server(arguments.url, *packages)
    source.claim()
    target.open()
    with source.write():
        with target.write(), target.patience():
            if _is_new(target):
                _copy_all(source, target)
            if differ := list(differences(source, target)):
                raise StartError(f"{target} is not empty, and differs in {', '.join(differ)}")
        source.retire(str(target))
    advice = f"start it with {setting.upper()}; {source} is retired"
    deliver(f"{service.name} has moved to {target}: {advice}")
    return 0


COMMAND = Command(
    name="migrate-to",
    about="copy everything to a PostgreSQL database, and retire the file; stop the service first",
    examples="%(prog)s postgresql://parrots@db.example/shop",
    arguments=_arguments,
    run=_run,
)
