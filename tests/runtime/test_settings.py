"""Settings come from the environment alone, and wrong ones are told in one line."""

from pathlib import Path

import pytest

from runtime.process.settings import Settings, authority, load_settings, without_password

SETTINGS = {  # their defaults, and other values
    "DATA_DIR": (Path("data"), "/somewhere/else"),
    "HOST": ("127.0.0.1", "0.0.0.0"),
    "INVENTORY_PORT": (8001, "1"),
    "SHOP_PORT": (8002, "65535"),
    "PAYMENT_PORT": (8003, "9003"),
    "INVENTORY_EXCHANGE_PORT": (8101, "9101"),
    "SHOP_EXCHANGE_PORT": (8102, "9102"),
    "PAYMENT_EXCHANGE_PORT": (8103, "9103"),
    "BROKER_PUBLISH_URL": ("tcp://127.0.0.1:5559", "tcp://broker:1"),
    "BROKER_SUBSCRIBE_URL": ("tcp://127.0.0.1:5560", "tcp://10.0.0.1:65535"),
    "BROKER_HTTP_PORT": (8000, "9000"),
    "BROKER_CURVE": ("on", "off"),
    "INVENTORY_DATABASE_URL": (None, "postgresql:///inventory?host=/run/postgresql"),
    "SHOP_DATABASE_URL": (None, "postgresql://parrots:secret@db.example:5433/shop"),
    "PAYMENT_DATABASE_URL": (None, "postgres://db.example/payment?max_connections=5"),
    "BROKER_URL": (None, "nats://one:4222,tls://parrots:secret@two"),
    "BROKER_REPLICAS": (1, "3"),
    "BROKER_CREDENTIALS": (None, __file__),
    "BROKER_TLS_CA": (None, __file__),
    "BROKER_TLS_CERT": (None, __file__),
    "BROKER_TLS_KEY": (None, __file__),
    "RETENTION_DAYS": (30, "1"),
    "CURRENCY": (None, "EUR"),
    "LOG_LEVEL": ("info", "warning"),
    "LOG_FORMAT": ("console", "json"),
}
DEFAULTS = {name: default for name, (default, _) in SETTINGS.items()}
OTHERS = {name: other for name, (_, other) in SETTINGS.items()}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in OTHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def shown(settings: Settings) -> dict[str, object]:
    return {name.upper(): value for name, value in settings.model_dump().items()}


def test_defaults(tmp_path: Path) -> None:
    assert shown(load_settings()) == DEFAULTS | {"DATA_DIR": tmp_path / "data"}


@pytest.mark.parametrize("name", OTHERS)
def test_a_variable_sets_its_own_setting_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shown(load_settings())
    monkeypatch.setenv(name, OTHERS[name])
    after = shown(load_settings())
    assert str(after.pop(name)) == OTHERS[name] != str(before.pop(name))
    assert after == before


@pytest.mark.parametrize("write", [str.lower, str.title, "PARROT_{}".format, "{}_".format])
def test_a_variable_counts_under_its_exact_name_only(
    write: "type[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_settings()
    for name, value in OTHERS.items():
        monkeypatch.setenv(write(name), value)
    assert load_settings() == expected


def test_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SHOP_PORT=9999\n")
    assert load_settings().shop_port == 8002


def test_a_relative_folder_is_in_the_current_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And stays there, wherever the process goes later."""
    monkeypatch.setenv("DATA_DIR", "here/it/is")
    settings = load_settings()
    monkeypatch.chdir("/")
    assert settings.data_dir == tmp_path / "here" / "it" / "is"


NOT_ENDPOINTS = [
    *("", "5559", "ipc:///tmp/x", "tcp://127.0.0.1", "tcp://:5559", "tcp://a:x", "tcp://a:1/"),
    *("tcp://a:1?x=1", "tcp://a:1#x", "tcp://user@a:1", "tcp://no such host:1", "tcp://a..b:1"),
    *("tcp://::1:5559", "tcp://[127.0.0.1]:1", "tcp://256.0.0.1:1", "tcp://a:0", "tcp://a:65536"),
]
NOT_DATABASES = [
    *("shop.db", "mysql:///d?password=secret&x=1", "sqlite:///shop.db", "mysql://u:secret@h/d"),
    *("postgresql:shop", "postgresql://a..b/shop", "postgresql:///shop?host=a..b"),
    *("postgresql://[zz/shop", "postgresql://h:99999/shop"),
]
NOT_HOSTS = [
    *("", "a..b", ".", "-a", "x" * 64, "256.0.0.1", "127.1", "[127.0.0.1]", "[::1", "::1]"),
    *("localhost:80", "fe80::1%a..b", "no such host", "*"),
]
NOT_SERVERS = ["nats", "tcp://a:1", "nats://a:1,", "nats://a b", "nats://a..b:1", "nats://a:0"]
SERVICES = ("INVENTORY", "SHOP", "PAYMENT")
WRONG = {
    **{f"{name}_PORT": ["", "0", "65536", "-1", "http", "80.5"] for name in SERVICES},
    **{f"{name}_DATABASE_URL": NOT_DATABASES for name in SERVICES},
    **{f"BROKER_{name}_URL": NOT_ENDPOINTS for name in ("PUBLISH", "SUBSCRIBE")},
    **{f"BROKER_{name}": ["/no/such/file"] for name in ("CREDENTIALS", "TLS_CA", "TLS_KEY")},
    "BROKER_CURVE": ["", "On", "true", "1"],
    "BROKER_REPLICAS": ["", "0", "6", "three"],
    "BROKER_URL": [*NOT_SERVERS, "nats://a:99999"],
    "DATA_DIR": [""],
    "HOST": NOT_HOSTS,
    "LOG_FORMAT": ["xml", "two\nlines"],
    "LOG_LEVEL": ["INFO", "trace"],
    "RETENTION_DAYS": ["", "0", "-1", "1.5", "36501", "month"],
}


def refused(capfd: pytest.CaptureFixture[str]) -> str:
    """The one line that tells which setting is wrong, and ends the process."""
    with pytest.raises(SystemExit) as ended:
        load_settings()
    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for value in WRONG[name]:
        monkeypatch.setenv(name, value)
        line = refused(capfd)
        assert f"{name}={without_password(value)!r}" in line
        assert "secret" not in line


@pytest.mark.parametrize("name", OTHERS)
def test_a_control_character_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Files with Windows line ends leave one at the end of each value."""
    for character in ("\r", "\n", "\t", "\x1b", "\x7f", "\x85"):
        monkeypatch.setenv(name, OTHERS[name] + character)
        line = refused(capfd)
        assert line.startswith(f"wrong setting {name}=")
        assert "control character" in line
        assert line.isprintable()


@pytest.mark.parametrize(
    ("given", "host", "shown"),
    [
        ("::1", "::1", "[::1]:80"),
        ("[::1]", "::1", "[::1]:80"),
        ("::", "::", "[::]:80"),
        ("fe80::1%eth0", "fe80::1%eth0", "[fe80::1%eth0]:80"),
        ("0.0.0.0", "0.0.0.0", "0.0.0.0:80"),
        ("my_host.example.", "my_host.example.", "my_host.example.:80"),
        ("bücher", "bücher", "bücher:80"),
    ],
)
def test_what_a_host_may_be(
    given: str, host: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST", given)
    assert load_settings().host == host
    assert authority(host, 80) == shown


def test_addresses_of_ipv6_have_brackets_in_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = {
        "BROKER_PUBLISH_URL": "tcp://[::1]:5559",
        "SHOP_DATABASE_URL": "postgresql://u@[::1]:5432/shop",
        "BROKER_URL": "nats://[::1]:4222",
    }
    for name, url in urls.items():
        monkeypatch.setenv(name, url)
    assert urls.items() <= load_settings().environment().items()


@pytest.mark.parametrize("name", [name for name, value in DEFAULTS.items() if value is None])
def test_an_empty_text_is_an_unset_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a process can be started without what its parent's environment has."""
    monkeypatch.setenv(name, "")
    assert load_settings() == Settings()
    assert load_settings().environment()[name] == ""


def test_settings_are_handed_on_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment made of settings gives the same ones, whatever else is set."""
    settings = load_settings()
    changed = Settings(**OTHERS)
    for given in (settings, changed):
        for name, value in (OTHERS | given.environment()).items():
            monkeypatch.setenv(name, value)
        assert load_settings() == given
