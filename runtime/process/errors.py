"""The errors that services raise, and what they mean to a client."""

import errno
import os
import sqlite3
from typing import NamedTuple

MAX_FIELD_ERRORS = 20  # in an answer
FULL = {errno.ENOSPC, errno.EDQUOT}
PASSING = FULL | {  # errors of a system that may pass
    *(errno.EAGAIN, errno.EBUSY, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE),
    *(errno.ENOLCK, errno.ENOMEM, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT),
}
SQLITE_PASSING = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
}


def one_line(error: BaseException) -> str:
    """The text of an error, in one line; some drivers write several."""
    return " ".join(str(error).split())


class ShopError(Exception):
    """Any error that this project raises on purpose."""


class StartError(ShopError):
    """A process or command cannot start or go on; its text says what to do, in one line."""


class NotYet(StartError):
    """The obstacle to a start may pass: the process tries again every second."""


def start_error(attempt: str, error: Exception) -> StartError:
    """The error to raise when the system or SQLite has refused to use ``DATA_DIR``."""
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
    """SQLite's primary code of an error, or of the one behind peewee's; 0 if there is none."""
    codes = (getattr(each, "sqlite_errorcode", 0) for each in (error, error.__context__))
    return max(codes) & 0xFF


class Unavailable(ShopError):
    """Nothing can be confirmed for now; the text says why. Nothing was changed."""


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
