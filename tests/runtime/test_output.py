"""Lines are written whole, or not at all, and never stop whoever writes them."""

import os
import threading

import pytest

from runtime.process.output import say


def test_a_line_that_is_no_text_is_written_too(capfd: pytest.CaptureFixture[str]) -> None:
    """Such as one with the name of a folder that is not UTF-8."""
    say("cannot open \udcff.db")
    assert capfd.readouterr().out == "cannot open \\udcff.db\n"


def test_a_reader_that_is_slow_is_waited_for() -> None:
    """Also where the pipe is one that does not block, as another process may have left it."""
    source, target = os.pipe()
    os.set_blocking(target, False)
    line = "x" * 1_000_000  # more than a pipe holds
    writer = threading.Thread(target=say, args=(line, target))
    writer.start()
    received = b""
    while len(received) <= len(line):
        received += os.read(source, 65536)
    writer.join()
    os.close(source)
    os.close(target)
    assert received.decode() == f"{line}\n"
