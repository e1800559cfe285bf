"""The errors that services raise, and what each means to whoever asked."""

from typing import NamedTuple


def one_line(error: BaseException) -> str:
    """What an error says, in one line; some of drivers have several."""
    return " ".join(str(error).split())


class ShopError(Exception):
    """Anything that this project raises on purpose."""


class StartError(ShopError):
    """A process cannot start; its text is the one line that says what to do. Exit code 1."""


class NotFound(ShopError):
    """There is no such object."""


class FieldError(NamedTuple):
    """What is wrong with one field; ``field`` is dotted, as in ``item.price`` or ``item_ids.1``."""

    field: str
    message: str


class Refused(ShopError):
    """The request breaks a rule, and nothing was changed."""

    def __init__(self, *errors: FieldError) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in errors))
        self.errors = errors
