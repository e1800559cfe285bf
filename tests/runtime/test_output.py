"""Lines are written whole, or not at all, and never stop whoever writes them."""

import pytest

from runtime.output import say


def test_a_line_that_is_no_text_is_written_too(capfd: pytest.CaptureFixture[str]) -> None:
    """Such as one with the name of a folder that is not UTF-8."""
    say("cannot open \udcff.db")
    assert capfd.readouterr().out == "cannot open \\udcff.db\n"
