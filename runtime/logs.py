"""Logs: one line an event on standard error, for people or as JSON."""

import logging
import os
import queue
import threading
import time
from contextlib import suppress

import structlog

from runtime.output import STDERR, reserve_standard_streams, say
from runtime.settings import Settings


class _Handler(logging.Handler):
    """Leaves writing to a thread of its own: a standard error that nobody reads stops nobody.

    Lines that find no place are dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[str] = queue.Queue(maxsize=10_000)
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def _write(self) -> None:
        while True:
            say(self._lines.get(), STDERR)
            self._lines.task_done()

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self._lines.put_nowait(self.format(record))

    def flush(self) -> None:
        """Wait until all is written, for at most a second; the end of the process calls it."""
        deadline = time.monotonic() + 1
        while self._lines.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.001)


def configure_logs(service: str, settings: Settings) -> None:
    """Send this process's log lines, and those of its libraries, to standard error.

    Standard output is kept for what the user came for. A standard error that is gone is ignored.
    """
    reserve_standard_streams()

    def add_service(
        _: object, __: str, entry: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        return {**entry, "service": service}

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
    ]
    final: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta
    ]
    if settings.log_format == "json":
        final += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        colors = os.isatty(STDERR) and not os.environ.get("NO_COLOR")
        final += [structlog.dev.ConsoleRenderer(colors=colors)]

    handler = _Handler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processors=final, foreign_pre_chain=shared)
    )
    level = getattr(logging, settings.log_level.upper())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # It warns of every request that waits for a thread, which is what threads are limited for.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    logging.getLogger("peewee").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
