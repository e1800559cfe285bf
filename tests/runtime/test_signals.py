"""The signals that end a process, and those that it was started to ignore."""

import signal
from collections.abc import Iterator

import pytest

from runtime.process.signals import stop_signals


@pytest.fixture
def ignored(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal that this process ignores."""
    number: signal.Signals = request.param
    before = signal.signal(number, signal.SIG_IGN)
    yield number
    signal.signal(number, before)


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGUSR1], indirect=True)
def test_an_ignored_signal_stays_ignored(ignored: signal.Signals) -> None:
    """As a hang-up is under nohup."""
    with stop_signals() as stopped:
        signal.raise_signal(ignored)
        assert not stopped(0)


@pytest.mark.parametrize("ignored", [signal.SIGTERM, signal.SIGINT], indirect=True)
def test_a_request_to_end_is_heard_nevertheless(ignored: signal.Signals) -> None:
    """A shell lets the processes that it starts in the background ignore Ctrl-C."""
    with stop_signals() as stopped:
        signal.raise_signal(ignored)
        assert stopped(1)


def test_each_signal_counts() -> None:
    """Several that come together are not one, and are remembered."""
    with stop_signals() as stopped:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert [stopped(1), stopped(0)] == [2, 2]
