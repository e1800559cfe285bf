"""Back up all databases of a folder as they are at one moment, while everything runs."""

import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from runtime.process.commands import command_line
from runtime.process.output import complain, deliver
from runtime.process.settings import NAMES, load_settings
from runtime.process.signals import ended_by_signals
from runtime.storage.database import BUSY_TIMEOUT_S

EXAMPLES = """\
%(prog)s /backups/today
DATA_DIR=/var/lib/parrot-shop %(prog)s /backups/today"""
URL = "_database_url"
SQLITE = b"SQLite format 3\0"  # the beginning of a file (sqlite.org/fileformat.html)
PAGES = 1000  # copied in one step; signals are noticed between steps


def backup(source: Path, target: Path) -> list[Path]:
    """Copy the databases and keys of all services in a folder to a new one; returns their paths.

    A database that has moved to PostgreSQL stays behind.

    The copies belong together: no reader in one knows of an event that its writer in another does
    not. Raises `OSError` and `sqlite3.Error`, which name the file; then it leaves nothing behind.
    """
    if target.exists():
        raise FileExistsError(f"{target} already exists: name a new folder")
    paths = [path for path in sorted(source.glob("*.db")) if not left_out(path)]
    if not paths:
        raise FileNotFoundError(f"there is no database in use in {source}: is DATA_DIR right?")
    target.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        draft = Path(stack.enter_context(TemporaryDirectory(dir=target.parent))) / target.name
        draft.mkdir(mode=0o700)
        with nobody_commits(paths):
            snapshots = [stack.enter_context(_transaction(path, "DEFERRED")) for path in paths]
        for path, snapshot in zip(paths, snapshots, strict=True):
            (draft / path.name).touch(mode=0o600)
            with _named(path), closing(sqlite3.connect(draft / path.name)) as copy:
                snapshot.backup(copy, pages=PAGES)
        if (source / "keys").is_dir():
            (draft / "keys").mkdir(mode=0o700)
            for path in (source / "keys").glob("*.key*"):
                key = draft / "keys" / path.name
                key.touch(mode=0o600)
                shutil.copyfile(path, key)
        draft.rename(target)
    return paths


@contextmanager
def nobody_commits(paths: Iterable[Path]) -> Iterator[None]:
    """Stop all commits for a moment: snapshots begun in it belong together."""
    with ExitStack() as moment:
        for path in paths:
            moment.enter_context(_transaction(path, "IMMEDIATE"))
        yield


def left_out(path: Path) -> str | None:
    """Why a file stays behind; None if it is a database of a service, a user's own included."""
    if path.stem not in NAMES and not _has_outbox(path):
        return "is not the database of a service"
    return "has moved to PostgreSQL" if _has_table(path, "retired") else None


def _has_outbox(path: Path) -> bool:
    """Whether a file that may be anything is a database with the tables of `messaging`."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(len(SQLITE)) != SQLITE:
            return False
    return _has_table(path, "messaging_migration")


def _has_table(path: Path, name: str) -> bool:
    with _transaction(path, "DEFERRED") as database:
        query = "SELECT 1 FROM sqlite_master WHERE name = ?"
        return database.execute(query, [name]).fetchone() is not None


@contextmanager
def _transaction(path: Path, kind: str) -> Iterator[sqlite3.Connection]:
    with _named(path):
        url = f"{path.as_uri()}?mode=rw"
        database = sqlite3.connect(url, timeout=BUSY_TIMEOUT_S, isolation_level=None, uri=True)
    with closing(database):
        with _named(path):
            database.execute(f"BEGIN {kind}")
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the snapshot begins
        yield database
        database.execute("ROLLBACK")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the file's name to SQLite's errors."""
    try:
        yield
    except sqlite3.Error as error:
        raise type(error)(f"{path}: {error}") from error


def main() -> None:
    """Back up ``DATA_DIR``; exit code 1 and one line if that fails."""
    parser = command_line(__doc__, EXAMPLES, "python -m runtime.backup")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder, to be created")
    target = parser.parse_args().folder.absolute()
    settings = load_settings()
    if any(name.endswith(URL) and url for name, url in settings):
        complain("PostgreSQL databases are not included: see docs/operations.md", service="backup")
    try:
        with ended_by_signals("backup"):
            copied = backup(settings.data_dir, target)
        left = {path: left_out(path) for path in settings.data_dir.glob("*.db")}
    except (OSError, sqlite3.Error) as error:
        complain(f"backup: {error}", service="backup")
        raise SystemExit(1) from None
    deliver(f"{len(copied)} databases as they were at one moment are in {target}")
    for path in sorted(left):
        if path not in copied:
            reason = left[path] or "was created meanwhile"
            complain(f"{path} was not backed up: it {reason}", service="backup")


if __name__ == "__main__":
    main()
