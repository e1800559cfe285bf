"""The database that the settings choose: a file, or one on a server."""

from runtime.process.extras import optional
from runtime.process.settings import Settings
from runtime.storage.database import Database
from runtime.storage.sqlite import SqliteFile


def database_of(settings: Settings, name: str, *packages: str) -> Database:
    """The database of a service: ``NAME_DATABASE_URL``, or else a file in ``DATA_DIR``."""
    if url := settings.database_url(name):
        return server(url, *packages)
    return SqliteFile(settings.data_dir / f"{name}.db", *packages)


def server(url: str, *packages: str) -> Database:
    """A database on a server; `StartError` if its driver is not installed."""
    postgresql = optional("runtime.storage.postgresql")
    return postgresql.PostgresDatabase(url, *packages)  # type: ignore[no-any-return]
