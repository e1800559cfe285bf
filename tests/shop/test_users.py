"""The rules of users."""

from unicodedata import normalize

import pytest
from playhouse.migrations import Runner

from runtime import ROOT
from runtime.process.settings import Settings
from shop.app import Shop
from shop.users import folded
from tests.contract import events
from tests.rules import create_user

NAMES = (
    "José Ångström",
    "JOSÉ",
    "Josef",
    "Straße 100%",
    "STRASSE",
    "ΟΔΟΣ",
    "under_score",
    "!",
    "ﬁn",
)


def test_nobody_is_told_of_users(shop: Shop) -> None:
    create_user(shop, "Kesha")
    assert events(shop) == []


FOUND = {
    "jos": [1, 2, 3],
    "josé": [1, 2],
    "JOSÉ å": [1],
    "ström": [1],
    "strasse": [4, 5],
    "straß": [4, 5],
    "οδος": [6],
    "0%": [4],
    "%": [4],
    "_": [7],
    "!": [8],
    "FI": [9],
    "\\": [],
    "nobody": [],
}


@pytest.mark.parametrize("server", [False, True])
def test_a_name_is_found_by_a_part_of_it(
    server: bool, settings: Settings, request: pytest.FixtureRequest
) -> None:
    """In any case, and with accents composed or not, here and there; also in what is older."""
    changes = {"shop_database_url": request.getfixturevalue("postgres_url")} if server else {}
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    shop = Shop(settings.model_copy(update=changes))
    folder = ROOT / "shop" / "migrations"
    Runner(shop.database, folder, table_name="shop_migration").up("0002_catalogue_version")
    for name in NAMES:
        shop.database.run('INSERT INTO "user" (name) VALUES (?)', normalize("NFD", name))
    shop.database.open()
    for name in NAMES:
        create_user(shop, normalize("NFC", name))
    for form in ("NFC", "NFD"):
        for asked, ids in FOUND.items():
            found = shop.users.all(name=normalize(form, asked))
            both = ids + [len(NAMES) + number for number in ids]
            assert [user["id"] for user in found] == both, asked
    page = shop.users.all(name="JOS", after=1, limit=2)
    assert page == [{"id": n, "name": normalize("NFD", NAMES[n - 1])} for n in (2, 3)]
    (shop.database.close_all if server else shop.database.close)()


def test_what_is_folded_stays_so() -> None:
    for name in NAMES:
        assert folded(folded(name)) == folded(name)


def test_a_user_of_an_older_copy_is_found(shop: Shop) -> None:
    """It runs beside this one during an upgrade, and folds no names."""
    shop.database.execute_sql("INSERT INTO \"user\" (name) VALUES ('Kesha')")
    assert [user["name"] for user in shop.users.all(name="kESH")] == ["Kesha"]
