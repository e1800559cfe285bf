"""The errors that services raise, and what each means to the client."""

import errno
import os
import sqlite3
from typing import NamedTuple

MAX_FIELD_ERRORS = 20  # in an answer
FULL = {errno.ENOSPC, errno.EDQUOT}
PASSING = FULL | {  # what a system may say for a while, and not for good
    *(errno.EAGAIN, errno.EBUSY, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE),
    *(errno.ENOLCK, errno.ENOMEM, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT),
}
SQLITE_PASSING = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
}


def one_line(error: BaseException) -> str:
    """What an error says, in one line; some of drivers have several."""
    return " ".join(str(error).split())


class ShopError(Exception):
    """Anything that this project raises on purpose."""


class StartError(ShopError):
    """A process cannot start; its text is the one line that says what to do. Exit code 1."""


class NotYet(StartError):
    """The obstacle to a start may pass: it is tried again every second."""


def start_error(attempt: str, error: Exception) -> StartError:
    """The error of an attempt to use ``DATA_DIR`` that the system, or SQLite, has refused."""
    passing = _sqlite_code(error) in SQLITE_PASSING
    if isinstance(error, OSError):
        passing = error.errno in PASSING
    kind = NotYet if passing else StartError
    return kind(f"cannot {attempt}: {reason(error)} (see DATA_DIR)")


def reason(error: Exception) -> str:
    """Why a database or a file cannot be used, in few words."""
    if isinstance(error, OSError):
        return "the disk is full" if error.errno in FULL else os.strerror(error.errno or 0)
    is_full = _sqlite_code(error) == sqlite3.SQLITE_FULL
    return "the disk is full" if is_full else one_line(error)


def _sqlite_code(error: Exception) -> int:
    """SQLite's primary code of an error, or of the one that peewee's was made of; 0 if of none."""
    codes = (getattr(each, "sqlite_errorcode", 0) for each in (error, error.__context__))
    return max(codes) & 0xFF


class Unavailable(ShopError):
    """Nothing new can be confirmed for the time being; the text says why. Nothing was changed."""


class NotFound(ShopError):
    """There is no such object."""


class FieldError(NamedTuple):
    """What is wrong with one field; ``field`` is dotted, as in ``item.price`` or ``item_ids.1``."""

    field: str
    message: str


class Refused(ShopError):
    """The request breaks a rule, and nothing was changed.

    Of many ``errors``, the first are kept, and the text says how many there are.
    """

    def __init__(self, *errors: FieldError) -> None:
        self.errors = errors[:MAX_FIELD_ERRORS]
        text = "; ".join(f"{field}: {message}" for field, message in self.errors)
        if len(errors) > MAX_FIELD_ERRORS:
            text = f"{len(errors)} fields are wrong, and these are the first: {text}"
        super().__init__(text)
