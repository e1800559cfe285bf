"""Events in: the inventory listens to nobody."""

from messaging.inbox import Handlers


def handlers() -> dict[str, Handlers]:
    """Each stream that is read, with its table of event type and function."""
    return {}
