"""The product: its four processes, in a folder and on ports of their own."""

import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from bench.errors import Failed
from bench.load import Request, ask
from bench.processes import Process, Processes
from runtime import ROOT
from runtime.process.settings import SERVICES
from scenarios.servers import HOST
from scenarios.system import free_settings


class System:
    """The processes have their default settings, apart from folder and ports."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        own = {"data_dir": folder, "log_level": "info"}
        self.settings = free_settings(folder).model_copy(update=own)
        self.running: dict[str, Process] = {}
        self._processes = processes

    def start(self, *names: str) -> None:
        """Start processes, and wait until they can do their work."""
        self.spawn(*names)
        for name in names:
            self.wait_until_ready(name)

    @property
    def environment(self) -> dict[str, str]:
        """The settings as environment variables; on files, there is no driver of servers."""
        on_files = not any(map(self.settings.database_url, SERVICES))
        hidden = {"PYTHONPATH": str(ROOT / "bench" / "absent")} if on_files else {}
        return self.settings.environment() | hidden

    def spawn(self, *names: str) -> None:
        """Start processes, and do not wait for them."""
        for name in names:
            self.running[name] = self._processes.python(name, name, settings=self.environment)

    def stop(self, *names: str) -> None:
        """End processes."""
        self._processes.stop(*(self.running.pop(name) for name in names))

    def url(self, name: str, path: str) -> str:
        """Where a process serves a path."""
        port = getattr(self.settings, f"{name}_{'http_' * (name == 'broker')}port")
        return f"http://{HOST}:{port}{path}"

    def state(self, name: str) -> dict[str, Any]:
        """What ``/readyz`` of a process tells; nothing while it does not answer."""
        with suppress(OSError):
            answer = ask(Request("GET", self.url(name, "/readyz")))
            return dict(from_json(answer.body)) if answer.status == 200 else {}
        return {}

    def wait_until_ready(self, name: str) -> None:
        """Wait until a process can do its work."""
        self.running[name].wait_until(lambda: self.state(name), "is ready")

    def is_connected(self) -> bool:
        """Whether all that run can do their work, and the services have reached the broker."""
        for process in self.running.values():
            process.check()
        states = map(self.state, self.running)
        return all(state and state.get("broker", "up") == "up" for state in states)

    def path(self, name: str) -> Path:
        """The database of a process."""
        return self.settings.data_dir / f"{name}.db"

    def row(self, name: str, query: str) -> tuple[Any, ...]:
        """The one row that a query gives."""
        return row(self.path(name), query)

    def drain(self, timeout_s: float = 300) -> None:
        """Wait until every order is paid, and the shop has heard of it."""
        unpaid = 'SELECT count(*) FROM "order" WHERE paid_at IS NULL'
        deadline = time.monotonic() + timeout_s
        while self.row("shop", unpaid) != (0,):
            if time.monotonic() >= deadline:
                raise Failed(f"orders are not paid within {timeout_s:.0f} s")
            time.sleep(0.1)


def row(path: Path, query: str, values: Iterable[object] = ()) -> tuple[Any, ...]:
    """The one row that a query of a database gives."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as db:
        (found,) = db.execute(query, tuple(values))
        return tuple(found)
