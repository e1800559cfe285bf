"""The wire protocol: every kind of message, and its frames."""

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

from runtime.process.errors import ShopError

EPOCH_BYTES = 16
DIGEST_BYTES = 16
NO_DIGEST = bytes(DIGEST_BYTES)
MAX_SEQUENCE = 2**63 - 1
RUN_EVENTS = 256  # at most, in one message
RUN_BYTES = 512 * 1024  # at most, unless the message is one event
NAME = re.compile(rb"[a-z0-9_-]{1,64}")
PLACE = re.compile(rf"([0-9a-f]{{{2 * EPOCH_BYTES}}}):(0|[1-9][0-9]{{0,18}})")


class WireError(ShopError):
    """The frames are no message of this protocol."""


class Place(NamedTuple):
    """A position in a stream; places compare as their bytes do, newer epochs after older ones."""

    epoch: bytes  # 16 bytes, made with the writer's database: its time, then a random part
    sequence: int  # counts from 1; 0 is the place before the first event

    def __str__(self) -> str:
        return f"{self.epoch.hex()}:{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Read a place as `str` writes it; `ValueError` if it is not one."""
        if (form := PLACE.fullmatch(text)) and int(form[2]) <= MAX_SEQUENCE:
            return cls(bytes.fromhex(form[1]), int(form[2]))
        raise ValueError(f"{text!r} is not a place: 32 hexadecimal digits, a colon, and a number")


START = Place(bytes(EPOCH_BYTES), 0)
# The stream that the journal itself writes: one event, with the time at which it was made.
JOURNAL, BEGUN = "journal", Place(START.epoch, 1)


def digest(body: bytes) -> bytes:
    """BLAKE2b of an event's body, 16 bytes: an ack names its event by it."""
    return blake2b(body, digest_size=DIGEST_BYTES).digest()


class Run(NamedTuple):
    """From a writer to its readers and the journal: consecutive events of one epoch."""

    stream: str
    follows: Place  # the place before them; in a replay, perhaps of an older epoch
    first: Place
    bodies: list[bytes]

    @property
    def last(self) -> Place:
        """The place of the last event."""
        return Place(self.first.epoch, self.first.sequence + len(self.bodies) - 1)

    def events(self) -> Iterator[tuple[Place, bytes]]:
        """Place and body of each."""
        epoch, first = self.first
        return ((Place(epoch, first + n), body) for n, body in enumerate(self.bodies))


def runs(
    stream: str,
    follows: Place,
    events: Iterable[tuple[Place, bytes]],
    max_bytes: int = RUN_BYTES,
) -> Iterator[Run]:
    """Cut events, which are in order, into runs, each of which follows the previous one."""
    bodies: list[bytes] = []
    first, size = follows, 0
    for place, body in events:
        size += len(body)
        is_next = place == (first.epoch, first.sequence + len(bodies))
        if not (bodies and is_next and len(bodies) < RUN_EVENTS and size <= max_bytes):
            if bodies:
                yield (run := Run(stream, follows, first, bodies))
                follows = run.last
            first, bodies, size = place, [], len(body)
        bodies.append(body)
    if bodies:
        yield Run(stream, follows, first, bodies)


class Ack(NamedTuple):
    """From the journal to a writer: everything up to here is on disk.

    ``digest`` is that of the journal's event at this place, so that a writer recognizes its own;
    zeros if the journal has no event there.
    """

    stream: str
    place: Place
    digest: bytes = NO_DIGEST


class Refuse(NamedTuple):
    """From the journal to a writer: another event is on disk at this place."""

    stream: str
    place: Place


class Want(NamedTuple):
    """From a reader to the journal: send me the events after this place."""

    stream: str
    reader: str
    place: Place


class Replay(NamedTuple):
    """From the journal to one reader: a run, and the place that it follows.

    A run without bodies ends an answer; its ``first`` is then the journal's head.
    """

    reader: str
    run: Run


Message = Run | Ack | Refuse | Want | Replay
WORDS = {Run: b"event", Ack: b"ack", Refuse: b"refuse", Want: b"want", Replay: b"replay"}


def topic(kind: type[Message], name: str = "") -> bytes:
    """The subscription to all messages of a kind, or to those of one stream or reader.

    Topics end in a slash, because subscriptions match prefixes.
    """
    return b"%s/%s/" % (WORDS[kind], name.encode()) if name else WORDS[kind] + b"/"


def pack(message: Message) -> list[bytes]:
    """Turn a message into its frames."""
    frames = [topic(type(message), message[0])]
    match message:
        case Run(_, _, first, bodies):
            return [*frames, *_pack_place(first), *bodies]
        case Want(_, reader, place):
            return [*frames, reader.encode(), *_pack_place(place)]
        case Replay(_, Run(stream, follows, first, bodies)):
            return [*frames, stream.encode(), *_pack_place(follows), *_pack_place(first), *bodies]
        case Ack(_, place, found):
            return [*frames, *_pack_place(place), found]
        case Refuse(_, place):
            return [*frames, *_pack_place(place)]


def unpack(frames: list[bytes]) -> Message:
    """Turn frames into their message; `WireError` if they do not form one."""
    try:
        word, name, rest = frames[0].split(b"/")
        match word, [rest, *frames[1:]]:
            case b"event", [b"", epoch, sequence, *bodies] if bodies:
                first = _first(epoch, sequence, bodies)
                return Run(_name(name), Place(epoch, first.sequence - 1), first, bodies)
            case b"ack", [b"", epoch, sequence, found] if len(found) == DIGEST_BYTES:
                return Ack(_name(name), _place(epoch, sequence), found)
            case b"refuse", [b"", epoch, sequence]:
                return Refuse(_name(name), _place(epoch, sequence))
            case b"want", [b"", reader, epoch, sequence]:
                return Want(_name(name), _name(reader), _place(epoch, sequence))
            case b"replay", [b"", stream, epoch_before, before, epoch, sequence, *bodies]:
                follows, first = _place(epoch_before, before), _first(epoch, sequence, bodies)
                return Replay(_name(name), Run(_name(stream), follows, first, bodies))
    except (ValueError, IndexError) as error:
        raise WireError(f"malformed message: {error}") from None
    raise WireError(f"unknown message {word[:32]!r} of {len(frames)} frames")


def _pack_place(place: Place) -> tuple[bytes, bytes]:
    return place.epoch, place.sequence.to_bytes(8, "big")


def _place(epoch: bytes, sequence: bytes) -> Place:
    number = int.from_bytes(sequence, "big")
    if len(epoch) != EPOCH_BYTES or len(sequence) != 8 or number > MAX_SEQUENCE:
        raise ValueError("an epoch has 16 bytes, and a sequence 8, up to 2^63-1")
    return Place(epoch, number)


def _first(epoch: bytes, sequence: bytes, bodies: list[bytes]) -> Place:
    """The place of a run's first event, or the place in a run without events."""
    first = _place(epoch, sequence)
    if bodies and not (all(bodies) and 1 <= first.sequence <= MAX_SEQUENCE - len(bodies) + 1):
        raise ValueError("events have bodies, and numbers from 1 to 2^63-1")
    return first


def _name(name: bytes) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name[:32]!r} is not a stream or reader name")
    return name.decode()
