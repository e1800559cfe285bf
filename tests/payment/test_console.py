"""The console: what is written of payments, and when."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from peewee import OperationalError

from payment import console as payment_console
from payment.app import Payment
from payment.console import BATCH, Console
from tests.conftest import eventually
from tests.rules import pay

ORDER = UUID("0b5e0000-0000-4000-8000-000000000001")


@contextmanager
def running(payment: Payment) -> Iterator[Console]:
    """A console that runs, and ends when it has shown everything."""
    console = Console(payment.database, payment.payments)
    console.start()
    yield console
    eventually(lambda: not payment.payments.unannounced(1))
    assert console.is_alive()
    console.stop()
    assert not console.is_alive()


def test_one_line_a_payment(payment: Payment, capfd: pytest.CaptureFixture[str]) -> None:
    """With the whole order id, or without one; a payment that is asked for again has no line."""
    with running(payment):
        pay(payment, 1, 4300, ORDER)
        pay(payment, 2, 0)
        pay(payment, 1, 4300, ORDER)
    assert capfd.readouterr().out == (
        f"Payment 1 of 4300 by user 1 for order {ORDER} succeeded\n"
        "Payment 2 of 0 by user 2 succeeded\n"
    )


def test_lines_that_are_missing_are_written_at_start(
    payment: Payment, capfd: pytest.CaptureFixture[str]
) -> None:
    """Once each, in order, and however many they are."""
    count = BATCH + 1
    with payment.database.write():
        for price in range(count):
            pay(payment, 1, price)
    for expected in (count, 0):
        with running(payment):
            pass
        lines = capfd.readouterr().out.splitlines()
        assert lines == [f"Payment {n + 1} of {n} by user 1 succeeded" for n in range(expected)]


def test_marks_after_writing(payment: Payment, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its line is written, a payment is committed and not marked: a crash repeats it."""
    unmarked = []

    def note(line: str) -> None:
        unmarked.extend((paid.id, line) for paid in payment.payments.unannounced(10))

    monkeypatch.setattr(payment_console, "say", note)
    with running(payment):
        pay(payment, 1, 4300)
    assert unmarked == [(1, "Payment 1 of 4300 by user 1 succeeded")]


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError("no space")], ids=repr)
def test_an_output_that_is_gone_is_ignored(
    payment: Payment, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Payments go on, and the console is there for the next one."""

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as broken, running(payment):
        broken.setattr(os, "write", fail)
        pay(payment, 1, 4300)
        eventually(lambda: not payment.payments.unannounced(1))
        pay(payment, 1, 4300)
    assert len(payment.payments.all()) == 2


def test_a_mark_that_fails_does_not_repeat_the_line(
    payment: Payment, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """However long the disk is full: only a crash may repeat a line."""
    failures = iter([OperationalError("database or disk is full")] * 3)
    mark = payment.payments.mark_announced

    def fail_first(up_to: int) -> None:
        if failure := next(failures, None):
            raise failure
        mark(up_to)

    monkeypatch.setattr(payment.payments, "mark_announced", fail_first)
    with running(payment):
        pay(payment, 1, 4300)
    assert next(failures, None) is None
    assert capfd.readouterr().out.count("Payment 1 of 4300 by user 1 succeeded\n") == 1
