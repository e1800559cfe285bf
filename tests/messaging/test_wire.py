import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messaging.transports.wire import (
    MAX_SEQUENCE,
    START,
    Ack,
    Message,
    Place,
    Refuse,
    Replay,
    Run,
    Want,
    WireError,
    digest,
    pack,
    runs,
    topic,
    unpack,
)

E1, E2 = bytes(range(16)), bytes(range(16, 32))
D = bytes(range(32, 48))
N1, N2 = bytes(7) + b"\1", b"\0\0\0\0\0\0\1\2"

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1, max_size=64)
epochs = st.binary(min_size=16, max_size=16)
places = st.builds(Place, epochs, st.integers(0, MAX_SEQUENCE))
first = st.builds(Place, epochs, st.integers(1, MAX_SEQUENCE - 9))
bodies = st.lists(st.binary(min_size=1), min_size=1, max_size=10)


def live(stream: str, first: Place, bodies: list[bytes]) -> Run:
    return Run(stream, Place(first.epoch, first.sequence - 1), first, bodies)


messages = st.one_of(
    st.builds(live, names, first, bodies),
    st.builds(Ack, names, places, epochs),
    st.builds(Refuse, names, places),
    st.builds(Want, names, names, places),
    st.builds(Replay, names, st.builds(Run, names, places, first, bodies)),
    st.builds(Replay, names, st.builds(Run, names, places, places, st.just([]))),
)


@settings(deadline=None)
@given(messages)
def test_every_message_survives_the_wire(message: Message) -> None:
    assert unpack(pack(message)) == message


@pytest.mark.parametrize(
    ("message", "frames"),
    [
        (live("items", Place(E1, 258), [b"{}"]), [b"event/items/", E1, N2, b"{}"]),
        (
            live("items", Place(E1, 1), [b"{}", b"[]"]),
            [b"event/items/", E1, N1, b"{}", b"[]"],
        ),
        (Ack("items", Place(E1, 1), D), [b"ack/items/", E1, N1, D]),
        (Refuse("items", Place(E1, 1)), [b"refuse/items/", E1, N1]),
        (Want("items", "shop", START), [b"want/items/", b"shop", bytes(16), bytes(8)]),
        (
            Replay("shop", Run("items", Place(E1, 1), Place(E2, 258), [b"{}", b"[]"])),
            [b"replay/shop/", b"items", E1, N1, E2, N2, b"{}", b"[]"],
        ),
        (
            Replay("shop", Run("items", Place(E1, 1), Place(E1, 1), [])),
            [b"replay/shop/", b"items", E1, N1, E1, N1],
        ),
    ],
)
def test_the_frames_of_each_message(message: Message, frames: list[bytes]) -> None:
    assert pack(message) == frames
    assert unpack(frames) == message


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"/"],
        [b"hello/items/", E1, N1],
        [b"event/items/", E1, N1],
        [b"event/items/", E1, N1, b"{}", b""],
        [b"event/items/", E1, N1, b""],
        [b"event/items/", E1, bytes(8), b"{}"],
        [b"event/items", E1, N1, b"{}"],
        [b"event/items/more/", E1, N1, b"{}"],
        [b"event//", E1, N1, b"{}"],
        [b"event/It\xffems/", E1, N1, b"{}"],
        [b"event/" + b"a" * 65 + b"/", E1, N1, b"{}"],
        [b"event/items/", E1[:15], N1, b"{}"],
        [b"event/items/", E1 + b"!", N1, b"{}"],
        [b"event/items/", E1, N1[:7], b"{}"],
        [b"event/items/", E1, N1 + b"!", b"{}"],
        [b"event/items/", E1, (2**63).to_bytes(8, "big"), b"{}"],
        [b"ack/items/", E1, N1],
        [b"ack/items/x", E1, N1, D],
        [b"ack/items/", E1, N1, b""],
        [b"ack/items/", E1, N1, D + b"!"],
        [b"refuse/items", E1, N1],
        [b"refuse/items/", E1, b"\xff" * 8],
        [b"want/items/", E1, N1],
        [b"want/items/", b"", E1, N1],
        [b"want/items/", b"a/b", E1, N1],
        [b"want/items", b"shop", E1, N1],
        [b"event/items/", E1, (2**63 - 1).to_bytes(8, "big"), b"{}", b"{}"],
        [b"replay/shop/", b"items", E1, N1, E1, N2, b""],  # what ended an answer once
        [b"replay/shop/", b"items", E1, N1, E1],
        [b"replay/shop/", b"items", E1, N1, E1, N2, b"{}", b""],
        [b"replay/shop/", b"items", E1, N1, N2, E1, b"{}"],
        [b"replay/shop/", b"", E1, N1, E1, N2, b"{}"],
        [b"replay/shop/", b"items", E1, N1, E1, bytes(8), b"{}"],
        [b"replay/shop", b"items", E1, N1, E1, N2, b"{}"],
    ],
)
def test_what_is_no_message_is_a_wire_error(frames: list[bytes]) -> None:
    with pytest.raises(WireError):
        unpack(frames)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8))
def test_nothing_but_wire_errors_comes_of_noise(frames: list[bytes]) -> None:
    with pytest.raises(WireError):
        unpack(frames)


def test_events_are_cut_into_runs() -> None:
    """Of at most 256 and 512 KiB, unless it is one event; consecutive, and of one epoch."""

    def cut(*events: tuple[Place, bytes]) -> list[tuple[Place, Place, int]]:
        return [(run.follows, run.first, len(run.bodies)) for run in runs("items", START, events)]

    def at(epoch: bytes, *numbers: int, size: int = 1) -> list[tuple[Place, bytes]]:
        return [(Place(epoch, n), bytes(size)) for n in numbers]

    assert cut() == []
    assert cut(*at(E1, *range(1, 301))) == [
        (START, Place(E1, 1), 256),
        (Place(E1, 256), Place(E1, 257), 44),
    ]
    assert cut(*at(E1, 1, 3), *at(E2, 4)) == [
        (START, Place(E1, 1), 1),
        (Place(E1, 1), Place(E1, 3), 1),
        (Place(E1, 3), Place(E2, 4), 1),
    ]
    sizes = [count for _, _, count in cut(*at(E1, 1, 2, 3, size=256 * 1024))]
    assert sizes == [2, 1]
    assert [count for *_, count in cut(*at(E1, 1, 2, size=600 * 1024))] == [1, 1]


def test_topics_end_in_a_slash() -> None:
    """Subscriptions match prefixes: who listens to `item` must not hear of `items`."""
    assert topic(Run) == b"event/"
    assert topic(Run, "items") == b"event/items/"
    assert topic(Replay, "shop") == b"replay/shop/"


@settings(deadline=None)
@given(places, places)
def test_places_compare_as_their_bytes_do(one: Place, other: Place) -> None:
    flat = [place.epoch + place.sequence.to_bytes(8, "big") for place in (one, other)]
    assert (one < other) == (flat[0] < flat[1])
    assert one >= START


def test_a_place_is_read_as_it_is_written() -> None:
    for place in (START, Place(E2, MAX_SEQUENCE)):
        assert Place.parse(str(place)) == place


@pytest.mark.parametrize("text", ["", "7", f"{E1.hex()}:", f"{E1.hex()}:01", f"{E1.hex()}:{2**63}"])
def test_what_is_no_place_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is not a place"):
        Place.parse(text)


def test_a_digest_is_blake2b_of_16_bytes() -> None:
    assert digest(b"{}").hex() == hashlib.blake2b(b"{}", digest_size=16).hexdigest()
