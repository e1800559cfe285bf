"""Log lines go to standard error, for people or machines, and never stop anything."""

import json
import logging
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import structlog

from runtime import ROOT
from runtime.process import logs
from runtime.process.logs import REQUEST_ID, configure_logs
from runtime.process.settings import Settings

pytestmark = pytest.mark.usefixtures("own_logging")
LEVELS = ["debug", "info", "warning", "error"]


def json_lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    logging.getLogger().handlers[0].flush()
    captured = capfd.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_json_is_one_object_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Lines carry the request's id and the service; those of libraries, and tracebacks, too."""
    configure_logs("shop", Settings(LOG_FORMAT="json"))
    REQUEST_ID.set("r-1")
    log = structlog.get_logger("x")
    log.info("sold", price=4000)
    logging.getLogger("library").warning("odd: %s", "thing")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")

    sold, odd, failed = json_lines(capfd)
    timestamp = sold.pop("timestamp")
    assert timestamp.endswith("Z")
    expected = {"event": "sold", "price": 4000, "level": "info", "service": "shop"}
    assert sold == expected | {"request_id": "r-1"}
    assert (odd["event"], odd["level"], odd["request_id"]) == ("odd: thing", "warning", "r-1")
    assert "ValueError: broken" in failed["exception"]


@pytest.mark.parametrize("level", LEVELS)
def test_lines_below_the_level_are_left_out(level: Any, capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs("shop", Settings(LOG_FORMAT="json", LOG_LEVEL=level))
    for name in LEVELS:
        getattr(structlog.get_logger("x"), name)("ours")
        getattr(logging.getLogger("library"), name)("theirs")
    told = [(line["event"], line["level"]) for line in json_lines(capfd)]
    wanted = LEVELS[LEVELS.index(level) :]
    assert told == [(who, name) for name in wanted for who in ("ours", "theirs")]


@pytest.mark.parametrize(("no_color", "colored"), [(None, True), ("", True), ("1", False)])
def test_a_terminal_gets_colors_unless_they_are_unwanted(
    no_color: str | None,
    colored: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(os, "isatty", lambda descriptor: True)
    configure_logs("shop", Settings())
    structlog.get_logger("x").info("sold", price=4000)
    logging.getLogger().handlers[0].flush()
    assert ("\x1b[" in capfd.readouterr().err) is colored


def test_people_get_plain_lines_in_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs("shop", Settings())
    REQUEST_ID.set("r-1")
    structlog.get_logger("x").info("sold", price=4000)
    logging.getLogger().handlers[0].flush()
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    assert "\x1b[" not in line
    assert all(text in line for text in ("sold", "price=4000", "request_id=r-1", "service=shop"))


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("redirection", ["", "2>&-"], ids=["unread", "closed"])
def test_a_standard_error_that_is_gone_stops_nothing(redirection: str, log_format: str) -> None:
    """Whether its reader has ended, or there was none from the start."""
    reader, writer = os.pipe()
    os.close(reader)
    code = (
        "import structlog; from runtime.process.logs import configure_logs; "
        "from runtime.process.settings import load_settings; "
        "configure_logs('shop', load_settings()); "
        "[structlog.get_logger('x').error('line') for _ in range(3)]; print('done', flush=True)"
    )
    ended = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, code],
        cwd=ROOT,
        env=os.environ | {"LOG_FORMAT": log_format},
        stdout=subprocess.PIPE,
        stderr=writer,
        check=False,
    )
    os.close(writer)
    assert ended.stdout == b"done\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_nobody_steers_the_terminal_or_forges_a_line(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever is in a path, it is one line, and its control characters are written out."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(os, "isatty", lambda descriptor: terminal)
    configure_logs("shop", Settings())
    text = "/\x1b]0;owned\x07\nforged"
    structlog.get_logger("x").info("request", path=text)
    logging.getLogger("library").warning(text)
    logging.getLogger().handlers[0].flush()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "\x1b]" not in line
        assert "\x07" not in line
        assert "\\x1b]0;owned" in line


def test_a_library_that_logs_wrongly_is_told_of_and_not_hurt(
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure_logs("shop", Settings())
    too_few = ("one",)
    logging.getLogger("library").warning("%s of %s", *too_few)
    logging.getLogger().handlers[0].flush()
    assert "a log line of library could not be written" in capfd.readouterr().err


def test_a_name_that_is_not_utf_8_is_logged_as_json_too(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs("shop", Settings(LOG_FORMAT="json"))
    structlog.get_logger("x").info("opened", file="\udcff.db")
    (line,) = json_lines(capfd)
    assert line["file"] == "\udcff.db"


def test_lines_that_nobody_reads_are_dropped_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(logs, "say", lambda *_: released.wait(10))
    monkeypatch.setattr(logs, "MAX_WAITING", 10)
    lines = logs._Lines()
    for _ in range(logs.BATCH_LINES + 20):
        lines.put("line")
    assert lines._waiting.qsize() <= 10
    released.set()
