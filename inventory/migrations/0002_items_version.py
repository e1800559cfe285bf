"""A token of the items' state, by which the list of them can be kept until the next change."""

from random import getrandbits

from peewee import BigIntegerField, SqliteDatabase

POSTGRESQL = """
    CREATE FUNCTION change_items() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE items_version SET token = (random() * 9e15)::bigint;
        RETURN NULL;
    END $$"""


def up(migrator, db):
    class ItemsVersion(db.Model):
        token = BigIntegerField()

        class Meta:
            legacy_table_names = False

    db.create_tables([ItemsVersion])
    ItemsVersion.insert(token=getrandbits(52)).execute()
    if not isinstance(db, SqliteDatabase):
        db.execute_sql(POSTGRESQL)
        db.execute_sql(
            "CREATE TRIGGER items AFTER INSERT OR UPDATE OR DELETE ON item "
            "FOR EACH STATEMENT EXECUTE FUNCTION change_items()"
        )
        return
    for change in ("INSERT", "UPDATE", "DELETE"):
        db.execute_sql(
            f"CREATE TRIGGER items_{change.lower()} AFTER {change} ON item "
            "BEGIN UPDATE items_version SET token = random(); END"
        )
