"""Logs: one line an event on standard error, for people or as JSON."""

import logging
import os

import structlog

from runtime.output import STDERR, reserve_standard_streams, say
from runtime.settings import Settings


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), STDERR)


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
