"""Users, the catalogue, and orders."""

from peewee import (
    AutoField,
    BigIntegerField,
    BlobField,
    BooleanField,
    CharField,
    CompositeKey,
    ForeignKeyField,
    IntegerField,
    SqliteDatabase,
    UUIDField,
)


def up(migrator, db):
    class Base(db.Model):
        class Meta:
            legacy_table_names = False

    class User(Base):
        id = AutoField()
        name = CharField()

    class Item(Base):
        id = BigIntegerField(primary_key=True)
        name = CharField()
        price = BigIntegerField()
        active = BooleanField()
        version = IntegerField()
        epoch = BlobField(index=True)

    class Order(Base):
        number = AutoField()
        id = UUIDField(unique=True)
        user = ForeignKeyField(User)
        price = BigIntegerField()
        placed_at = CharField()
        paid_at = CharField(null=True)

    class OrderLine(Base):
        order = ForeignKeyField(Order, backref="lines")
        item_id = BigIntegerField()
        name = CharField()
        price = BigIntegerField()
        quantity = IntegerField()

        class Meta:
            primary_key = CompositeKey("order", "item_id")
            without_rowid = isinstance(db, SqliteDatabase)

    db.create_tables([User, Item, Order, OrderLine])
