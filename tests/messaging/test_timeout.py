"""The retransmission timeout, by the formulas of RFC 6298."""

from pytest import approx

from messaging.timeout import Timeout


def test_it_follows_what_answers_take() -> None:
    timeout = Timeout(least_s=0.25)
    assert timeout.seconds == 0.25
    timeout.answered(1)
    assert timeout.seconds == approx(1 + 4 * 0.5)
    timeout.answered(2)
    assert timeout.seconds == approx(1.125 + 4 * 0.625)
    for _ in range(50):
        timeout.answered(0.01)
    assert timeout.seconds == 0.25


def test_silence_doubles_it_up_to_eight_times() -> None:
    timeout = Timeout(least_s=0.25)
    waits = []
    for _ in range(5):
        timeout.expired()
        waits.append(timeout.seconds)
    assert waits == [0.5, 1, 2, 2, 2]
    timeout.reset()
    assert timeout.seconds == 0.25


def test_the_answer_to_what_was_sent_twice_measures_nothing() -> None:
    timeout = Timeout(least_s=0.25)
    timeout.expired()
    timeout.answered(0, repeated=True)  # on a line of which nothing is known
    assert timeout.seconds == 0.5
    timeout.answered(0.1)
    timeout.expired()
    doubled = timeout.seconds
    timeout.answered(1, repeated=True)
    assert timeout.seconds == doubled
    timeout.answered(0.1, repeated=True)  # as soon as ever: the line is as it was
    assert timeout.seconds == approx(0.1 + 4 * 0.05)


def test_a_process_that_stood_still_has_measured_no_line() -> None:
    timeout = Timeout(least_s=0.25)
    timeout.answered(3600)
    assert timeout.seconds == 10
    timeout.expired()
    assert timeout.seconds == 10
    for _ in range(99):
        timeout.answered(0.01)
    assert timeout.seconds == 0.25
