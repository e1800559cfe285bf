"""The settings: environment variables with exactly these names, read here alone."""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


def _folder(text: object) -> Path:
    if not text:
        raise ValueError("must name a folder")
    return Path(str(text)).absolute()


def without_password(url: str) -> str:
    """A URL as it may be shown: user and password are left out."""
    return re.sub(r"//[^@,\s]*@", "//…@", url)


def checked_database_url(url: str) -> str:
    """The URL of a database on a server; `ValueError` if it is none."""
    if not re.fullmatch(r"postgres(ql)?://\S+", url):
        raise ValueError("must be like postgresql://user:password@host:5432/name")
    return url


def _servers(url: str) -> str:
    if not all(re.fullmatch(r"(nats|tls)://[^\s/]+/?", each) for each in url.split(",")):
        raise ValueError("must be like nats://host:4222, or several with commas between them")
    return url


def _endpoint(url: str) -> str:
    if not ENDPOINT.fullmatch(url) or not urlsplit(url).port:  # which raises if out of range
        raise ValueError("must be like tcp://127.0.0.1:5559")
    return url


ENDPOINT = re.compile(r"tcp://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
Text = Annotated[str, Field(min_length=1)]
Folder = Annotated[Path, BeforeValidator(_folder)]
Port = Annotated[int, Field(ge=1, le=65535)]
Days = Annotated[int, Field(ge=1, le=36500)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Unset = BeforeValidator(lambda given: given or None)  # an empty text unsets what others may set
DatabaseUrl = Annotated[Annotated[str, AfterValidator(checked_database_url)] | None, Unset]
Servers = Annotated[Annotated[str, AfterValidator(_servers)] | None, Unset]
File = Annotated[FilePath | None, Unset]


class Settings(BaseSettings):
    """Every setting with its default; the variable's name is the field's in capitals."""

    model_config = SettingsConfigDict(
        alias_generator=str.upper, case_sensitive=True, frozen=True, validate_default=True
    )

    data_dir: Folder = Path("data")
    host: Text = "127.0.0.1"
    inventory_port: Port = 8001
    shop_port: Port = 8002
    payment_port: Port = 8003
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
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"

    def http_port(self, process: str) -> tuple[int, str]:
        """The HTTP port of a process, and the variable that sets it."""
        field = "broker_http_port" if process == "broker" else f"{process}_port"
        return getattr(self, field), field.upper()

    def environment(self) -> dict[str, str]:
        """The variables that give these settings to another process."""
        return {name.upper(): "" if value is None else str(value) for name, value in self}

    def database_url(self, service: str) -> str | None:
        """The URL of a service's database; None if it is a file in ``data_dir``."""
        return getattr(self, f"{service}_database_url", None)

    @property
    def keys(self) -> Path | None:
        """The folder of the broker's keys; None if nothing is encrypted."""
        return self.data_dir / "keys" if self.broker_curve == "on" else None


def load_settings() -> Settings:
    """Read the environment; a wrong value is one line that names its variable, and exit code 2."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = [
            f"{problem['loc'][0]}={without_password(repr(problem['input']))}: {problem['msg']}"
            for problem in error.errors()
        ]
        print("wrong setting " + "; ".join(wrong), file=sys.stderr)
        raise SystemExit(2) from None
