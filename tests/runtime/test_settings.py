"""Settings come from the environment alone, and wrong ones are told in one line."""

from pathlib import Path

import pytest

from runtime.process.settings import Settings, authority, load_settings, without_password

DEFAULTS = {
    "HOST": "127.0.0.1",
    "INVENTORY_PORT": 8001,
    "SHOP_PORT": 8002,
    "PAYMENT_PORT": 8003,
    "INVENTORY_EXCHANGE_PORT": 8101,
    "SHOP_EXCHANGE_PORT": 8102,
    "PAYMENT_EXCHANGE_PORT": 8103,
    "BROKER_PUBLISH_URL": "tcp://127.0.0.1:5559",
    "BROKER_SUBSCRIBE_URL": "tcp://127.0.0.1:5560",
    "BROKER_HTTP_PORT": 8000,
    "BROKER_CURVE": "on",
    "INVENTORY_DATABASE_URL": None,
    "SHOP_DATABASE_URL": None,
    "PAYMENT_DATABASE_URL": None,
    "BROKER_URL": None,
    "BROKER_REPLICAS": 1,
    "BROKER_CREDENTIALS": None,
    "BROKER_TLS_CA": None,
    "BROKER_TLS_CERT": None,
    "BROKER_TLS_KEY": None,
    "RETENTION_DAYS": 30,
    "CURRENCY": None,
    "LOG_LEVEL": "info",
    "LOG_FORMAT": "console",
}
OTHERS = {
    "DATA_DIR": "/somewhere/else",
    "HOST": "0.0.0.0",
    "INVENTORY_PORT": "1",
    "SHOP_PORT": "65535",
    "PAYMENT_PORT": "9003",
    "INVENTORY_EXCHANGE_PORT": "9101",
    "SHOP_EXCHANGE_PORT": "9102",
    "PAYMENT_EXCHANGE_PORT": "9103",
    "BROKER_PUBLISH_URL": "tcp://broker:1",
    "BROKER_SUBSCRIBE_URL": "tcp://10.0.0.1:65535",
    "BROKER_HTTP_PORT": "9000",
    "BROKER_CURVE": "off",
    "INVENTORY_DATABASE_URL": "postgresql:///inventory?host=/run/postgresql",
    "SHOP_DATABASE_URL": "postgresql://parrots:secret@db.example:5433/shop",
    "PAYMENT_DATABASE_URL": "postgres://db.example/payment?max_connections=5",
    "BROKER_URL": "nats://one:4222,tls://parrots:secret@two",
    "BROKER_REPLICAS": "3",
    "BROKER_CREDENTIALS": __file__,
    "BROKER_TLS_CA": __file__,
    "BROKER_TLS_CERT": __file__,
    "BROKER_TLS_KEY": __file__,
    "RETENTION_DAYS": "1",
    "CURRENCY": "EUR",
    "LOG_LEVEL": "warning",
    "LOG_FORMAT": "json",
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in OTHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def shown(settings: Settings) -> dict[str, object]:
    return {name.upper(): value for name, value in settings.model_dump().items()}


def test_defaults(tmp_path: Path) -> None:
    values = shown(load_settings())
    assert {name: values[name] for name in DEFAULTS} == DEFAULTS
    assert values["DATA_DIR"] == tmp_path / "data"


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


PORT = ["INVENTORY_PORT", "SHOP_PORT", "PAYMENT_PORT"]
URL = ["BROKER_PUBLISH_URL", "BROKER_SUBSCRIBE_URL"]
NOT_A_URL = [
    "",
    "5559",
    "ipc:///tmp/x",
    "tcp://127.0.0.1",
    "tcp://:5559",
    "tcp://a:x",
    "tcp://a:1/",
    "tcp://a:1?x=1",
    "tcp://a:1#x",
    "tcp://user@a:1",
    "tcp://no such host:1",
    "tcp://a..b:1",
    "tcp://::1:5559",
    "tcp://[127.0.0.1]:1",
    "tcp://256.0.0.1:1",
]
NOT_A_HOST = [
    "",
    "a..b",
    ".",
    "-a",
    "x" * 64,
    "256.0.0.1",
    "127.1",
    "[127.0.0.1]",
    "[::1",
    "::1]",
    "localhost:80",
    "fe80::1%a..b",
    "no such host",
    "*",
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in PORT for value in ("", "0", "65536", "-1", "http", "80.5")),
        *((name, value) for name in URL for value in (*NOT_A_URL, "tcp://a:0", "tcp://a:65536")),
        ("LOG_LEVEL", "INFO"),
        ("LOG_LEVEL", "trace"),
        ("LOG_FORMAT", "xml"),
        ("LOG_FORMAT", "two\nlines"),
        *(("BROKER_CURVE", value) for value in ("", "On", "true", "1")),
        *(("RETENTION_DAYS", value) for value in ("", "0", "-1", "1.5", "36501", "month")),
        *(
            (f"{service}_DATABASE_URL", value)
            for service in ("INVENTORY", "SHOP", "PAYMENT")
            for value in (
                "shop.db",
                "mysql:///d?password=secret&x=1",
                "sqlite:///shop.db",
                "mysql://u:secret@h/d",
                "postgresql:shop",
                "postgresql://a..b/shop",
                "postgresql:///shop?host=a..b",
                "postgresql://[zz/shop",
                "postgresql://h:99999/shop",
            )
        ),
        *(("BROKER_URL", value) for value in ("nats", "tcp://a:1", "nats://a:1,", "nats://a b")),
        *(("BROKER_URL", value) for value in ("nats://a..b:1", "nats://a:99999", "nats://a:0")),
        *(("BROKER_REPLICAS", value) for value in ("", "0", "6", "three")),
        *((f"BROKER_{name}", "/no/such/file") for name in ("CREDENTIALS", "TLS_CA", "TLS_KEY")),
        *(("HOST", value) for value in NOT_A_HOST),
        ("DATA_DIR", ""),
    ],
)
def test_a_wrong_value_is_one_line(
    name: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        load_settings()
    (line,) = capfd.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert f"{name}={without_password(value)!r}" in line
    assert "secret" not in line


@pytest.mark.parametrize("character", ["\r", "\n", "\t", "\x1b", "\x7f", "\x85"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_control_character_is_refused(
    name: str,
    character: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Files with Windows line ends leave one at the end of each value."""
    monkeypatch.setenv(name, OTHERS[name] + character)
    with pytest.raises(SystemExit) as ended:
        load_settings()
    (line,) = capfd.readouterr().err.splitlines()
    assert ended.value.code == 2
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
