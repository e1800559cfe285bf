import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.wire import (
    MAX_SEQUENCE,
    START,
    Ack,
    Event,
    Message,
    Place,
    Refuse,
    Replay,
    Want,
    WireError,
    pack,
    topic,
    unpack,
)

E1, E2 = bytes(range(16)), bytes(range(16, 32))
N1, N2 = bytes(7) + b"\1", b"\0\0\0\0\0\0\1\2"

names = st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True)
epochs = st.binary(min_size=16, max_size=16)
places = st.builds(Place, epochs, st.integers(0, MAX_SEQUENCE))
numbered = st.builds(Place, epochs, st.integers(1, MAX_SEQUENCE))
messages = st.one_of(
    st.builds(Event, names, numbered, st.binary(min_size=1)),
    st.builds(Ack, names, places),
    st.builds(Refuse, names, places),
    st.builds(Want, names, names, places),
    st.builds(Replay, names, names, places, numbered, st.binary()),
)


@given(messages)
def test_every_message_survives_the_wire(message: Message) -> None:
    assert unpack(pack(message)) == message


@pytest.mark.parametrize(
    ("message", "frames"),
    [
        (Event("items", Place(E1, 258), b"{}"), [b"event/items/", E1, N2, b"{}"]),
        (Ack("items", Place(E1, 1)), [b"ack/items/", E1, N1]),
        (Refuse("items", Place(E1, 1)), [b"refuse/items/", E1, N1]),
        (Want("items", "shop", START), [b"want/items/", b"shop", bytes(16), bytes(8)]),
        (
            Replay("shop", "items", Place(E1, 1), Place(E2, 258), b"{}"),
            [b"replay/shop/", b"items", E1, N1, E2, N2, b"{}"],
        ),
        (
            Replay("shop", "items", Place(E1, 1), Place(E1, 1), b""),
            [b"replay/shop/", b"items", E1, N1, E1, N1, b""],
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
        [b"ack/items/", E1],
        [b"ack/items/x", E1, N1],
        [b"ack/items/", E1, N1, b""],
        [b"refuse/items", E1, N1],
        [b"refuse/items/", E1, b"\xff" * 8],
        [b"want/items/", E1, N1],
        [b"want/items/", b"", E1, N1],
        [b"want/items/", b"a/b", E1, N1],
        [b"want/items", b"shop", E1, N1],
        [b"replay/shop/", b"items", E1, N1, E1, N2],
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


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8))
def test_nothing_but_wire_errors_comes_of_noise(frames: list[bytes]) -> None:
    with pytest.raises(WireError):
        unpack(frames)


def test_topics_end_in_a_slash() -> None:
    """Subscriptions match prefixes: who listens to `item` must not hear of `items`."""
    assert topic(Event) == b"event/"
    assert topic(Event, "items") == b"event/items/"
    assert topic(Replay, "shop") == b"replay/shop/"


@given(places, places)
def test_places_compare_as_their_bytes_do(one: Place, other: Place) -> None:
    flat = [place.epoch + place.sequence.to_bytes(8, "big") for place in (one, other)]
    assert (one < other) == (flat[0] < flat[1])
    assert one >= START
