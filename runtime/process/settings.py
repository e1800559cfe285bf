"""The settings: environment variables with exactly these names; no other module reads them."""

import os
import re
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FilePath,
    ValidationError,
    field_validator,
)

from runtime.process.output import complain

LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"  # of a host name (RFC 1123, 2.1); some names have "_"
# A last label of digits is an address.
HOST_NAME = re.compile(rf"({LABEL}\.)*(?![0-9]+\.?$){LABEL}\.?")
ENDPOINT = re.compile(r"tcp://(\[[^]/]+\]|[^]\[:/]+):([0-9]{1,5})")
SERVICES = ("inventory", "shop", "payment")
NAMES = ("broker", *SERVICES)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _folder(text: object) -> Path:
    if not text:
        raise ValueError("must name a folder")
    return Path(str(text)).absolute()


def without_password(url: str) -> str:
    """A URL to show: without user and password, wherever they are."""
    return re.sub(r"(?<=//)[^@,\s]*(?=@)|(?<=password=)[^&\s'\"]*", "…", url)


def authority(host: str, port: int) -> str:
    """Host and port for a URL: an IPv6 address gets brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and ":" in text and text.endswith("]") else text
    with suppress(ValueError):  # resolvers raise for names that cannot be encoded
        encoded = bare.encode("idna").decode()
        if HOST_NAME.fullmatch(encoded) or ip_address(bare):
            return bare
    raise ValueError("must be an address or the name of a host, like 127.0.0.1, ::1 or localhost")


def _parts(url: str) -> SplitResult:
    """Split a URL; `ValueError` if its host or port is invalid."""
    parts = urlsplit(url)
    hosts = (unquote(parts.hostname or ""), *parse_qs(parts.query).get("host", []))
    for host in ",".join(hosts).split(","):
        if host and not host.startswith(("/", "@")):  # these are sockets of PostgreSQL
            _host(host)
    if parts.port == 0:
        raise ValueError("there is no port 0")
    return parts


def checked_database_url(url: str) -> str:
    """The URL of a database on a server; `ValueError` if it is not one."""
    with suppress(ValueError):
        if re.fullmatch(r"postgres(ql)?://\S+", url) and _parts(url):
            return url
    raise ValueError("must be like postgresql://user:password@host:5432/name")


def _servers(urls: str) -> str:
    with suppress(ValueError):
        if all(
            re.fullmatch(r"(nats|tls)://[^\s/]+/?", url) and _parts(url).hostname
            for url in urls.split(",")
        ):
            return urls
    raise ValueError("must be like nats://host:4222, or several with commas between them")


def _endpoint(url: str) -> str:
    with suppress(ValueError):
        if (match := ENDPOINT.fullmatch(url)) and _host(match[1]) and _parts(url).port:
            return url
    raise ValueError("must be like tcp://127.0.0.1:5559")


Host = Annotated[str, AfterValidator(_host)]
Folder = Annotated[Path, BeforeValidator(_folder)]
Port = Annotated[int, Field(ge=1, le=65535)]
Days = Annotated[int, Field(ge=1, le=36500)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Unset = BeforeValidator(lambda given: given or None)  # an empty text unsets a setting
DatabaseUrl = Annotated[Annotated[str, AfterValidator(checked_database_url)] | None, Unset]
Servers = Annotated[Annotated[str, AfterValidator(_servers)] | None, Unset]
Currency = Annotated[Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None, Unset]  # ISO 4217
File = Annotated[FilePath | None, Unset]


class Settings(BaseModel):
    """Every setting with its default; the variable's name is the field's in capitals."""

    model_config = ConfigDict(
        alias_generator=str.upper, extra="forbid", frozen=True, validate_default=True
    )

    data_dir: Folder = Path("data")
    host: Host = "127.0.0.1"
    inventory_port: Port = 8001
    shop_port: Port = 8002
    payment_port: Port = 8003
    inventory_exchange_port: Port = 8101
    shop_exchange_port: Port = 8102
    payment_exchange_port: Port = 8103
    broker_publish_url: Endpoint = "tcp://127.0.0.1:5559"
    broker_subscribe_url: Endpoint = "tcp://127.0.0.1:5560"
    broker_http_port: Port = 8000
    broker_curve: Literal["on", "off"] = "on"
    inventory_database_url: DatabaseUrl = None
    shop_database_url: DatabaseUrl = None
    payment_database_url: DatabaseUrl = None
    broker_url: Servers = None
    broker_replicas: Annotated[int, Field(ge=1, le=5)] = 1
    broker_credentials: File = None
    broker_tls_ca: File = None
    broker_tls_cert: File = None
    broker_tls_key: File = None
    retention_days: Days = 30
    currency: Currency = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"

    @field_validator("*", mode="before")
    @classmethod
    def _without_control_characters(cls, value: object) -> object:
        if isinstance(value, str) and CONTROL.search(value):
            raise ValueError("has a control character: is it from a file with Windows line ends?")
        return value

    def http_port(self, process: str) -> tuple[int, str]:
        """The HTTP port of a process, and the variable that sets it.

        That of ``shop_exchange`` is for ``python -m shop --exchange-only``.
        """
        field = "broker_http_port" if process == "broker" else f"{process}_port"
        return getattr(self, field), field.upper()

    def for_pages(self) -> dict[str, Any]:
        """The settings for the pages' scripts: the currency, and the ports of the other pages."""
        ports = {name: self.http_port(name)[0] for name in ("shop", "inventory", "payment")}
        return {"currency": self.currency, "ports": ports}

    def environment(self) -> dict[str, str]:
        """These settings as environment variables of another process."""
        return {name.upper(): "" if value is None else str(value) for name, value in self}

    def database_url(self, service: str) -> str | None:
        """The URL of a service's database; None if it is a file in ``data_dir``."""
        return getattr(self, f"{service}_database_url", None)

    @property
    def keys(self) -> Path | None:
        """The folder of the broker's keys; None if nothing is encrypted."""
        return self.data_dir / "keys" if self.broker_curve == "on" else None


def from_environment(**chosen: Any) -> Settings:
    """The environment's settings, except ``chosen`` ones; `ValidationError` if one is wrong."""
    known = os.environ.keys() & {name.upper() for name in Settings.model_fields}
    return Settings(**{name: os.environ[name] for name in known} | chosen)


def load_settings() -> Settings:
    """Read the environment; a wrong value is one line that names its variable, and exit code 2."""
    try:
        return from_environment()
    except ValidationError as error:
        wrong = [
            f"{problem['loc'][0]}={without_password(repr(problem['input']))}: {problem['msg']}"
            for problem in error.errors()
        ]
        complain("wrong setting " + "; ".join(wrong))
        raise SystemExit(2) from None
