"""A token of the catalogue's state, by which its answers can be kept until the next change."""

from peewee import BigIntegerField, SqliteDatabase

POSTGRESQL = """
    CREATE FUNCTION change_catalogue() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE catalogue_version SET token = (random() * 9e15)::bigint;
        RETURN NULL;
    END $$"""


def up(migrator, db):
    class CatalogueVersion(db.Model):
        token = BigIntegerField()

        class Meta:
            legacy_table_names = False

    db.create_tables([CatalogueVersion])
    CatalogueVersion.insert(token=0).execute()
    if not isinstance(db, SqliteDatabase):
        db.execute_sql(POSTGRESQL)
        db.execute_sql(
            "CREATE TRIGGER catalogue AFTER INSERT OR UPDATE OR DELETE ON item "
            "FOR EACH STATEMENT EXECUTE FUNCTION change_catalogue()"
        )
        return
    for change in ("INSERT", "UPDATE", "DELETE"):
        db.execute_sql(
            f"CREATE TRIGGER catalogue_{change.lower()} AFTER {change} ON item "
            "BEGIN UPDATE catalogue_version SET token = random(); END"
        )
