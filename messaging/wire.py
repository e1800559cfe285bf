"""The words of the wire: every kind of message, packed into frames and unpacked here alone."""

import re
from typing import NamedTuple

from runtime.errors import ShopError

EPOCH_BYTES = 16
MAX_SEQUENCE = 2**63 - 1
NAME = re.compile(rb"[a-z0-9_-]{1,64}")


class WireError(ShopError):
    """Frames that are no message of this protocol."""


class Place(NamedTuple):
    """A position in a stream; places compare as their bytes do, newer epochs after older ones."""

    epoch: bytes  # 16 bytes, made with the writer's database: its time, then a random part
    sequence: int  # counts from 1; 0 is the place before the first event

    def __str__(self) -> str:
        return f"{self.epoch.hex()}:{self.sequence}"


START = Place(bytes(EPOCH_BYTES), 0)


class Event(NamedTuple):
    """From a writer to its readers and the journal: what happened."""

    stream: str
    place: Place
    body: bytes


class Ack(NamedTuple):
    """From the journal to a writer: everything up to here is on disk."""

    stream: str
    place: Place


class Refuse(NamedTuple):
    """From the journal to a writer: another event is on disk under this number."""

    stream: str
    place: Place


class Want(NamedTuple):
    """From a reader to the journal: send me what comes after this place."""

    stream: str
    reader: str
    place: Place


class Replay(NamedTuple):
    """From the journal to one reader: an event and the place that it follows.

    An empty body ends an answer; its place is then the journal's head.
    """

    reader: str
    stream: str
    follows: Place
    place: Place
    body: bytes


Message = Event | Ack | Refuse | Want | Replay


def topic(kind: type[Message], name: str = "") -> bytes:
    """The subscription to all messages of a kind, or to those of one stream or reader.

    Topics end in a slash, because subscriptions match prefixes.
    """
    return f"{kind.__name__}/{name}/".lower().replace("//", "/").encode()


def pack(message: Message) -> list[bytes]:
    """Turn a message into its frames."""
    frames = [topic(type(message), message[0])]
    match message:
        case Event(_, place, body):
            return [*frames, *_pack_place(place), body]
        case Want(_, reader, place):
            return [*frames, reader.encode(), *_pack_place(place)]
        case Replay(_, stream, follows, place, body):
            return [*frames, stream.encode(), *_pack_place(follows), *_pack_place(place), body]
        case Ack(_, place) | Refuse(_, place):
            return [*frames, *_pack_place(place)]


def unpack(frames: list[bytes]) -> Message:
    """Turn frames into their message; `WireError` if they are none."""
    try:
        word, name, rest = frames[0].split(b"/")
        match word, [rest, *frames[1:]]:
            case b"event", [b"", epoch, sequence, body] if body:
                return Event(_name(name), _place(epoch, sequence, first=1), body)
            case b"ack", [b"", epoch, sequence]:
                return Ack(_name(name), _place(epoch, sequence))
            case b"refuse", [b"", epoch, sequence]:
                return Refuse(_name(name), _place(epoch, sequence))
            case b"want", [b"", reader, epoch, sequence]:
                return Want(_name(name), _name(reader), _place(epoch, sequence))
            case b"replay", [b"", stream, *places, body] if len(places) == 4:
                follows = _place(places[0], places[1])
                place = _place(places[2], places[3], first=1 if body else 0)
                return Replay(_name(name), _name(stream), follows, place, body)
    except (ValueError, IndexError) as error:
        raise WireError(f"malformed message: {error}") from None
    raise WireError(f"unknown message {word[:32]!r} of {len(frames)} frames")


def _pack_place(place: Place) -> tuple[bytes, bytes]:
    return place.epoch, place.sequence.to_bytes(8, "big")


def _place(epoch: bytes, sequence: bytes, first: int = 0) -> Place:
    number = int.from_bytes(sequence, "big")
    if len(epoch) != EPOCH_BYTES or len(sequence) != 8 or not first <= number <= MAX_SEQUENCE:
        raise ValueError("an epoch has 16 bytes, and a sequence 8, up to 2^63-1")
    return Place(epoch, number)


def _name(name: bytes) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name[:32]!r} is no name of a stream or reader")
    return name.decode()
