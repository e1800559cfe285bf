"""A token of the catalogue's state, by which its answers can be kept until the next change."""

from peewee import BigIntegerField


def up(migrator, db):
    class CatalogueVersion(db.Model):
        token = BigIntegerField()

        class Meta:
            legacy_table_names = False

    db.create_tables([CatalogueVersion])
    CatalogueVersion.insert(token=0).execute()
    for change in ("INSERT", "UPDATE", "DELETE"):
        db.execute_sql(
            f"CREATE TRIGGER catalogue_{change.lower()} AFTER {change} ON item "
            "BEGIN UPDATE catalogue_version SET token = random(); END"
        )
