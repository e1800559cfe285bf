"""The keys of the broker and its peers (CURVE, ZeroMQ RFC 26); the first process makes them.

Each file is in the format of pyzmq's certificates; the keys in it are Z85, 40 characters.
"""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import zmq
from zmq.auth import load_certificate
from zmq.utils import z85

from runtime.process.errors import StartError, start_error
from runtime.process.locks import locked


class KeyPair(NamedTuple):
    """The public key that identifies a peer, and the secret key that proves its identity."""

    public: bytes
    secret: bytes


def public_key(folder: Path, name: str) -> bytes:
    """The key in ``NAME.key``; if there is none, make a pair.

    Of several processes that start at once, one makes the pair, and the others read it.
    Raises `StartError` if a file is no key or cannot be written.
    """
    path, secret_path = folder / f"{name}.key", folder / f"{name}.key_secret"
    try:
        is_missing = not path.exists()
    except OSError as error:
        raise start_error(f"read {path}", error) from error
    if is_missing:
        try:
            for each in (folder.parent, folder):
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(folder):
                _put(secret_path, *zmq.curve_keypair())
                _put(path, _read_pair(secret_path).public)
        except OSError as error:
            raise start_error(f"write {path}", error) from error
    try:
        key = load_certificate(path)[0]
        if len(z85.decode(key)) == 32:
            return key
    except OSError as error:
        raise start_error(f"read {path}", error) from error
    except (ValueError, KeyError):
        pass
    raise StartError(f"{path} is not a key: restore it, or remove both key files of {name}")


def key_pair(folder: Path, name: str) -> KeyPair:
    """The pair in ``NAME.key`` and ``NAME.key_secret``, made or refused as by `public_key`."""
    public_key(folder, name)
    return _read_pair(folder / f"{name}.key_secret")


def is_admitted(folder: Path, public: bytes) -> bool:
    """Whether one of the folder's ``*.key`` files, as they are now, holds this key."""
    for path in folder.glob("*.key"):
        with contextlib.suppress(OSError, ValueError):  # a file without a key admits nobody
            if load_certificate(path)[0] == public:
                return True
    return False


def _read_pair(path: Path) -> KeyPair:
    try:
        secret = load_certificate(path)[1] or b""
        return KeyPair(zmq.curve_public(secret), secret)
    except PermissionError as error:
        raise start_error(f"read {path}", error) from error
    except (OSError, ValueError, zmq.ZMQError):
        raise StartError(
            f"{path} is missing or not a secret key: copy it from where the broker runs"
        ) from None


def _put(path: Path, public: bytes, secret: bytes | None = None) -> None:
    """Write a file whole, readable for its owner alone, unless it exists."""
    if path.exists():
        return
    text = b'curve\n    public-key = "%b"\n' % public
    text += b'    secret-key = "%b"\n' % secret if secret else b""
    draft = path.with_name(f"{uuid4().hex}.draft")
    try:
        draft.touch(mode=0o600, exist_ok=False)
        with draft.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
