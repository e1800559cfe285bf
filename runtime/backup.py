"""Back up all databases of a folder as they are at one moment, while everything runs."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from runtime.commands import command_line
from runtime.database import BUSY_TIMEOUT_S
from runtime.output import STDERR, say
from runtime.settings import load_settings

EXAMPLES = """\
%(prog)s /backups/today
DATA_DIR=/var/lib/parrot-shop %(prog)s /backups/today"""


def backup(source: Path, target: Path) -> int:
    """Copy each ``*.db`` of a folder, and its keys, to a new folder; gives how many databases.

    The copies belong together: no reader in one knows of an event that its writer in another does
    not. Raises `OSError` and `sqlite3.Error`, and leaves nothing then.
    """
    paths = sorted(source.glob("*.db"))
    if not paths:
        raise FileNotFoundError(f"there is no database in {source}: is DATA_DIR right?")
    if target.exists():
        raise FileExistsError(f"{target} is there already: name a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        draft = Path(stack.enter_context(TemporaryDirectory(dir=target.parent))) / target.name
        draft.mkdir(mode=0o700)
        with ExitStack() as moment:  # in which nobody commits
            for path in paths:
                moment.enter_context(_transaction(path, "IMMEDIATE"))
            snapshots = [stack.enter_context(_transaction(path, "DEFERRED")) for path in paths]
        for path, snapshot in zip(paths, snapshots, strict=True):
            with closing(sqlite3.connect(draft / path.name)) as copy:
                snapshot.backup(copy)
        if (source / "keys").is_dir():
            shutil.copytree(source / "keys", draft / "keys")
        draft.rename(target)
    return len(paths)


@contextmanager
def _transaction(path: Path, kind: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, BUSY_TIMEOUT_S, isolation_level=None)) as database:
        database.execute(f"BEGIN {kind}")
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()  # its snapshot begins
        yield database
        database.execute("ROLLBACK")


def main() -> None:
    """Back up ``DATA_DIR``; exit code 1 and one line if that fails."""
    parser = command_line(__doc__, EXAMPLES, "python -m runtime.backup")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new one, to be made")
    target = parser.parse_args().folder.absolute()
    settings = load_settings()
    try:
        count = backup(settings.data_dir, target)
    except (OSError, sqlite3.Error) as error:
        say(f"backup: {error}", STDERR)
        raise SystemExit(1) from None
    say(f"{count} databases as they were at one moment are in {target}")
    if any(name.endswith("database_url") and url for name, url in settings):
        say("What is on PostgreSQL is not in it: see docs/operations.md", STDERR)


if __name__ == "__main__":
    main()
