import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zmq

from messaging.transports.keys import KeyPair, is_admitted, key_pair, public_key
from runtime.process.errors import StartError


def test_a_pair_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "keys"
    pair = key_pair(folder, "broker")
    assert zmq.curve_public(pair.secret) == pair.public == public_key(folder, "broker")
    assert key_pair(folder, "broker") == pair != key_pair(folder, "client")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    names = "broker.key", "broker.key_secret", "client.key", "client.key_secret"
    assert files == dict.fromkeys(names, 0o600)
    assert pair.secret not in (folder / "broker.key").read_bytes()


def test_of_many_that_start_at_once_the_first_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a file system that has no links."""

    def link(*_: object) -> None:
        raise PermissionError("FAT has no links")

    monkeypatch.setattr("os.link", link)
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        with ThreadPoolExecutor(8) as pool:
            pairs = set(pool.map(lambda _, folder=folder: key_pair(folder, "client"), range(8)))
        assert len(pairs) == 1
        assert sorted(path.name for path in folder.iterdir()) == ["client.key", "client.key_secret"]


def test_a_process_that_died_between_the_files(tmp_path: Path) -> None:
    """The public key is made again from the secret one."""
    pair = key_pair(tmp_path, "client")
    (tmp_path / "client.key").unlink()
    assert key_pair(tmp_path, "client") == pair
    assert public_key(tmp_path, "client") == pair.public


def test_a_machine_without_the_secret_of_the_broker(tmp_path: Path) -> None:
    """It knows the broker, and cannot be one."""
    public = key_pair(tmp_path, "broker").public
    (tmp_path / "broker.key_secret").unlink()
    assert public_key(tmp_path, "broker") == public
    with pytest.raises(StartError, match=r"broker\.key_secret is missing"):
        key_pair(tmp_path, "broker")


@pytest.mark.parametrize("junk", [b"", b"junk", b'public-key = "short"', b"\xff" * 99])
@pytest.mark.parametrize("name", ["client.key", "client.key_secret"])
def test_a_file_that_is_no_key(tmp_path: Path, name: str, junk: bytes) -> None:
    """It is named in one line, and stays as it is."""
    key_pair(tmp_path, "client")
    (tmp_path / name).write_bytes(junk)
    with pytest.raises(StartError, match=name) as error:
        key_pair(tmp_path, "client")
    assert "\n" not in str(error.value)
    assert (tmp_path / name).read_bytes() == junk


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(StartError, match="DATA_DIR"):
        key_pair(tmp_path / "keys", "client")


def test_who_is_admitted(tmp_path: Path) -> None:
    """Those whose public key is in the folder now; a file that is no key is none."""
    pair, stranger = key_pair(tmp_path, "client"), KeyPair(*zmq.curve_keypair())
    (tmp_path / "junk.key").write_bytes(b"\xff")
    assert is_admitted(tmp_path, pair.public)
    assert not is_admitted(tmp_path, stranger.public)
    (tmp_path / "friend.key").write_bytes(b'public-key = "%b"' % stranger.public)
    assert is_admitted(tmp_path, stranger.public)
    (tmp_path / "friend.key").unlink()
    assert not is_admitted(tmp_path, stranger.public)
