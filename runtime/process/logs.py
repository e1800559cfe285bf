"""Logs: one line for each event, on standard error, for people or as JSON."""

import json
import logging
import os
import re
import threading
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from queue import SimpleQueue

import structlog
from pydantic_core import to_json

from runtime.process.output import STDERR, reserve_standard_streams, say
from runtime.process.settings import Settings

MAX_WAITING = 10_000
BATCH_S = 0.01  # lines are written together, so that no request has to wake a thread
BATCH_LINES = 256
WORD = re.compile(r"[!-~]+")
REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)


class _Lines(logging.Handler):
    """Writes lines in a thread of its own, so that an unread standard error stops no other thread.

    When the queue is full, it drops lines.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: SimpleQueue[str | threading.Event] = SimpleQueue()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def _run(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < BATCH_LINES and not self._waiting.empty():
                batch.append(self._waiting.get())
            if lines := [each for each in batch if isinstance(each, str)]:
                say("\n".join(lines), STDERR)
            for each in batch:
                if isinstance(each, threading.Event):
                    each.set()
            time.sleep(BATCH_S)

    def put(self, line: str) -> None:
        """Take a line."""
        if self._waiting.qsize() < MAX_WAITING:
            self._waiting.put(line)

    debug = info = warning = error = critical = put  # what structlog calls

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # a wrong log line must not stop its caller
            line = f"a log line of {record.name} could not be written: {error!r}"
        self.put(line)

    def flush(self) -> None:
        """Wait until all lines are written, for at most a second, at the end of the process."""
        written = threading.Event()
        self._waiting.put(written)
        written.wait(timeout=1)


def configure_logs(service: str, settings: Settings) -> None:
    """Send this process's log lines, and those of its libraries, to standard error.

    Standard output is for results only. A closed standard error is ignored.
    """
    reserve_standard_streams()

    def complete(
        _: object, level: str, entry: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """The fields of every line: the request, the level, the time and the service."""
        if request_id := REQUEST_ID.get():
            entry.setdefault("request_id", request_id)
        moment = datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00")
        return {**entry, "level": level, "timestamp": f"{moment}Z", "service": service}

    shared: list[structlog.typing.Processor] = [complete]
    final: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, _plain]
    if settings.log_format == "json":
        final[-1] = _json
    elif os.isatty(STDERR) and not os.environ.get("NO_COLOR"):
        final = [_printable, structlog.dev.ConsoleRenderer()]

    lines = _Lines()
    forget = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    lines.setFormatter(
        structlog.stdlib.ProcessorFormatter(processors=[forget, *final], foreign_pre_chain=shared)
    )
    level = getattr(logging, settings.log_level.upper())
    logging.basicConfig(handlers=[lines], level=level, force=True)
    # waitress warns of each request that waits for a thread, which is normal here.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    logging.getLogger("peewee").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )


def _json(_: object, __: str, entry: structlog.typing.EventDict) -> str:
    try:
        return to_json(entry, fallback=repr).decode()
    except ValueError:  # a name that is not UTF-8
        return json.dumps(entry, default=repr)


def _plain(_: object, __: str, entry: structlog.typing.EventDict) -> str:
    """The line of `structlog.dev.ConsoleRenderer` without colours, in an eighth of the time."""
    traceback = entry.pop("exception", "")
    time, level, event = (entry.pop(name) for name in ("timestamp", "level", "event"))
    rest = " ".join([f"{name}={_word(entry[name])}" for name in sorted(entry)])
    event = event if isinstance(event, str) and event.isprintable() else repr(event)
    return f"{time} [{level:9}] {event:30} {rest}" + (traceback and f"\n{traceback}")


def _word(value: object) -> str:
    return value if isinstance(value, str) and WORD.fullmatch(value) else repr(value)


def _printable(_: object, __: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape control characters, which would steer the terminal."""
    return {
        name: value if not isinstance(value, str) or value.isprintable() else repr(value)
        for name, value in entry.items()
    }
