"""The client of NATS servers: which of them it trusts, and the credentials that it shows them."""

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
    """nats-py's client, with less trust in servers."""

    def _connect_command(self) -> bytes:
        """Make the first message, which has the password.

        A server that is too old, or lacks the TLS that was asked for, does not get it.
        """
        version = str(self._server_info.get("version", "of no version"))
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
            raise NatsError(f"nats-server {version} is too old: 2.12 or later is needed")
        if self.options.get("tls") and not self._server_info.get("tls_required"):
            raise NatsError("the server offers no TLS, and tls:// or BROKER_TLS_… asks for it")
        return super()._connect_command()

    async def _connect_to_server(self, s: Any) -> None:
        """Close a connection that a server has refused before the next one."""
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        """Parse any headers: nats-py's own function may fail, and is half the cost of a message."""
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
    """The options of our login; `StartError` if BROKER_CREDENTIALS is no file of credentials.

    The login in one URL also applies to servers that the cluster announces.
    """
    if file := settings.broker_credentials:
        try:
            text = file.read_text()
        except (OSError, ValueError) as error:
            raise StartError(f"cannot read BROKER_CREDENTIALS: {error}") from error
        if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
            raise StartError(f"BROKER_CREDENTIALS: {file} is not a .creds file")
        return {"user_credentials": str(file)}
    for url in map(urlsplit, servers(settings)):
        if url.username and url.password is None:
            return {"token": unquote(url.username)}
        if url.username:
            return {"user": unquote(url.username), "password": unquote(url.password or "")}
    return {}


def tls(settings: Settings) -> dict[str, Any]:
    """The options of TLS, if it was asked for; `StartError` if a file cannot be used."""
    asked = any(url.startswith("tls:") for url in servers(settings))
    if not (asked or settings.broker_tls_ca or settings.broker_tls_cert):
        return {}  # nats-py has its own options for a server that requires TLS
    try:
        context = ssl.create_default_context(cafile=settings.broker_tls_ca)
        if settings.broker_tls_cert:
            context.load_cert_chain(settings.broker_tls_cert, settings.broker_tls_key)
    except OSError as error:
        files = "BROKER_TLS_CA, BROKER_TLS_CERT, BROKER_TLS_KEY"
        raise StartError(f"cannot use the files of {files}: {error}") from error
    return {"tls": context}
