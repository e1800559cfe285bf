"""Items."""

from peewee import AutoField, BigIntegerField, BooleanField, CharField, IntegerField


def up(migrator, db):
    class Item(db.Model):
        id = AutoField()
        name = CharField()
        price = BigIntegerField()
        active = BooleanField(default=True)
        version = IntegerField(default=1)

        class Meta:
            legacy_table_names = False

    db.create_tables([Item])
