"""Real processes for tests: start them, ask them, kill them."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runtime.settings import Settings

ROOT = Path(__file__).parent.parent


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class World:
    """The processes of one test, with settings of their own; their output goes to files."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._every: list[subprocess.Popen[bytes]] = []
        settings.data_dir.mkdir(parents=True, exist_ok=True)

    def environment(self, **changes: str) -> dict[str, str]:
        given = {name.upper(): str(value) for name, value in self.settings.model_dump().items()}
        return {**os.environ, **given, **changes}

    def run(self, *arguments: str, **changes: str) -> subprocess.Popen[bytes]:
        """Start ``python ARGUMENTS``; standard output and error go to ``log(arguments[-1], …)``."""
        name = arguments[-1]
        with (
            self._log(name, "stdout").open("ab") as stdout,
            self._log(name, "stderr").open("ab") as stderr,
        ):
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=self.environment(**changes),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        self._every.append(process)
        return process

    def start(self, *names: str, **changes: str) -> None:
        """Start processes, and wait until they serve."""
        for name in names:
            self.processes[name] = self.run("-m", name, **changes)
        for name in names:
            self.wait_until_up(name)

    def wait_until_up(self, name: str) -> None:
        from tests.conftest import eventually  # noqa: PLC0415  # conftest imports this module

        if name != "broker":
            eventually(lambda: self.alive(name))

    def alive(self, name: str) -> bool:
        try:
            return self.ask(name, "GET", "/livez").status == 200
        except OSError:
            return False

    def kill(self, *names: str, number: int = signal.SIGKILL) -> None:
        """Send a signal that ends them, and wait for their end."""
        for name in names:
            self.processes[name].send_signal(number)
        for name in names:
            self.processes.pop(name).wait(10)

    def ask(self, name: str, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One HTTP request; `OSError` if it is not answered."""
        port = getattr(self.settings, f"{name}_port")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            if body is not None:
                named = {"Content-Type": "application/json", **named}
            content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, content, named)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def get(self, name: str, path: str) -> Any:
        return self.ask(name, "GET", path).json()

    def post(self, name: str, path: str, body: Any, **headers: str) -> Answer:
        return self.ask(name, "POST", path, body, **headers)

    def output(self, name: str, stream: str = "stdout") -> str:
        """What a process has written, over all its starts."""
        return self._log(name, stream).read_text(errors="replace")

    def _log(self, name: str, stream: str) -> Path:
        return self.settings.data_dir.parent / f"{Path(name).stem}.{stream}"

    def end(self) -> None:
        for process in self._every:
            process.kill()
            process.wait()
