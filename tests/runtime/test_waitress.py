"""What `runtime.web.connection` and `runtime.web.server` replace or rely on is as it was read.

Where this fails after an upgrade, read what has changed in waitress, see whether the two modules
still hold, and put the new digests here and the new version into `runtime/web/connection.py`.
"""

import hashlib
import inspect
from importlib.metadata import version
from typing import Any

import pytest
from waitress import buffers, channel, parser, receiver, server, task, trigger, wasyncore

import runtime.web.connection

READ: dict[Any, str] = {
    buffers.FileBasedBuffer: "e55332750507ed12",
    buffers.BytesIOBasedBuffer: "339e7347710dc89a",
    buffers.ReadOnlyFileBasedBuffer: "05800fcb876d6467",
    buffers.OverflowableBuffer: "545747c4f2e2e71a",
    channel.HTTPChannel: "aa3da44fa1741b69",
    parser.HTTPRequestParser: "f2b09de756c11493",
    parser.crack_first_line: "5ef0eba51166e715",
    parser.get_header_lines: "968a7db45a59f12c",
    receiver.FixedStreamReceiver: "434997a7017f1336",
    receiver.ChunkedReceiver: "7d4fd7a3f8c53daa",
    server.BaseWSGIServer: "82ab2f37dc852df3",
    server.TcpWSGIServer: "b2cb32f191a17310",
    task.ThreadedTaskDispatcher: "541f30c57f083fdf",
    task.Task: "407d67e516390fb5",
    task.ErrorTask: "50756541cbe4e25b",
    task.WSGITask: "9d14cf12c73aa868",
    trigger.trigger: "48bf86fea4c84cec",
    wasyncore.dispatcher: "4d74dc7e94b4be53",
    wasyncore.close_all: "6b588549e9916191",
    wasyncore.loop: "9c04aac11e1c336c",
    wasyncore.poll2: "f2ea2bd150ff2600",
    wasyncore.readwrite: "2467235cc3f4eb51",
}


def digest(part: Any) -> str:
    return hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:16]


@pytest.mark.parametrize("part", READ, ids=lambda part: part.__qualname__)
def test_waitress_is_as_it_was_read(part: Any) -> None:
    assert digest(part) == READ[part]


def test_the_version_that_was_read_is_named() -> None:
    assert f"waitress {version('waitress')};" in inspect.getdoc(runtime.web.connection)
