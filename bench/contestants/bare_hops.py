"""Bare ZeroMQ: a forwarder, and behind it a peer that commits what it hears and answers."""

import sqlite3
import sys
from contextlib import closing

import zmq

THERE, BACK = b"there/", b"back/"


def forward(publish_url: str, subscribe_url: str) -> None:
    """Relay, without encryption."""
    context = zmq.Context()
    publishers, subscribers = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    publishers.bind(publish_url)
    subscribers.bind(subscribe_url)
    zmq.proxy(publishers, subscribers)


def answer(publish_url: str, subscribe_url: str, database: str) -> None:
    """Commit every message, flushed to the disk, and send it back."""
    context = zmq.Context()
    publisher, subscriber = context.socket(zmq.PUB), context.socket(zmq.SUB)
    publisher.connect(publish_url)
    subscriber.connect(subscribe_url)
    subscriber.subscribe(THERE)
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA journal_mode = wal")
        db.execute("PRAGMA synchronous = full")
        db.execute("CREATE TABLE heard (id INTEGER PRIMARY KEY, body BLOB)")
        while True:
            _, body = subscriber.recv_multipart()
            with db:
                db.execute("INSERT INTO heard (body) VALUES (?)", [body])
            publisher.send_multipart([BACK, body])


if __name__ == "__main__":
    if sys.argv[1] == "forward":
        forward(*sys.argv[2:])
    else:
        answer(*sys.argv[2:])
