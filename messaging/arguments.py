"""Arguments of command lines that name a stream, or a place in one."""

import argparse

from messaging.transports.wire import NAME, Place


def stream(text: str) -> str:
    """Parse the name of a stream."""
    if not NAME.fullmatch(text.encode(errors="replace")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a stream name: see docs/events.md")
    return text


def place(text: str) -> Place:
    """Parse a place, as log lines and ``/readyz`` name it."""
    try:
        return Place.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
