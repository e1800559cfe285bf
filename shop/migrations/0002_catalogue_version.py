"""A counter of the catalogue's changes, by which its answers can be kept until the next one."""

from peewee import IntegerField


def up(migrator, db):
    class CatalogueVersion(db.Model):
        number = IntegerField()

        class Meta:
            legacy_table_names = False

    db.create_tables([CatalogueVersion])
    CatalogueVersion.insert(number=0).execute()
