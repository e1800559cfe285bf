"""The client of NATS servers: which of them are trusted, and what they are told."""

import re
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError

from runtime.process.errors import StartError
from runtime.process.settings import Settings

OLDEST = 2, 12  # the first nats-server that has atomic batches


class Client(NatsClient):
    """nats-py's client, where it trusts others too much."""

    def _connect_command(self) -> bytes:
        """What is said first, with the password: not to a server that is too old.

        Nor in the clear, if TLS was asked for.
        """
        version = str(self._server_info.get("version", "of no version"))
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
            raise NatsError(f"nats-server {version} is too old: it takes 2.12 or later")
        if self.options.get("tls") and not self._server_info.get("tls_required"):
            raise NatsError("the server offers no TLS, and tls:// or BROKER_TLS_… asks for it")
        return super()._connect_command()

    async def _connect_to_server(self, s: Any) -> None:
        """The connection that a server has refused is closed before the next one."""
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        """Headers, whatever they are: nats-py's own may fail, and is half the cost of a message."""
        if not headers:
            return None
        status, *lines = bytes(headers).decode(errors="replace").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        found = {name: value.strip() for name, _, value in pairs}
        return found | ({"Status": status[9:12]} if status[9:] else {})


def servers(settings: Settings) -> list[str]:
    """The URLs of BROKER_URL."""
    return (settings.broker_url or "").split(",")


def login(settings: Settings) -> dict[str, Any]:
    """What tells a server who we are; `StartError` if BROKER_CREDENTIALS is no such file.

    What stands in one URL goes for the servers that tell of themselves, too.
    """
    if file := settings.broker_credentials:
        try:
            text = file.read_text()
        except (OSError, ValueError) as error:
            raise StartError(f"cannot read BROKER_CREDENTIALS: {error}") from error
        if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
            raise StartError(f"BROKER_CREDENTIALS: {file} is no .creds file")
        return {"user_credentials": str(file)}
    for url in map(urlsplit, servers(settings)):
        if url.username and url.password is None:
            return {"token": unquote(url.username)}
        if url.username:
            return {"user": unquote(url.username), "password": unquote(url.password or "")}
    return {}


def tls(settings: Settings) -> dict[str, Any]:
    """What encrypts the connection, if that was asked for; `StartError` if a file is of no use."""
    asked = any(url.startswith("tls:") for url in servers(settings))
    if not (asked or settings.broker_tls_ca or settings.broker_tls_cert):
        return {}  # nats-py has its own for a server that wants it
    try:
        context = ssl.create_default_context(cafile=settings.broker_tls_ca)
        if settings.broker_tls_cert:
            context.load_cert_chain(settings.broker_tls_cert, settings.broker_tls_key)
    except OSError as error:
        files = "BROKER_TLS_CA, BROKER_TLS_CERT, BROKER_TLS_KEY"
        raise StartError(f"cannot use the files of {files}: {error}") from error
    return {"tls": context}
