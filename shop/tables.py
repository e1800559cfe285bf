"""The shop's tables; their history is in ``migrations``."""

from peewee import (
    AutoField,
    BigIntegerField,
    BlobField,
    BooleanField,
    CharField,
    CompositeKey,
    ForeignKeyField,
    IntegerField,
    TextField,
    UUIDField,
)

from runtime.storage.database import Table


class User(Table):
    """Somebody who can buy."""

    id = AutoField()
    name = CharField()
    folded_name = TextField(null=True)  # as it is searched; null if a version of before added it


class Item(Table):
    """An item as the warehouse last told of it."""

    id = BigIntegerField(primary_key=True)
    name = CharField()
    price = BigIntegerField()
    active = BooleanField()
    version = IntegerField()
    epoch = BlobField(index=True)  # of the stream that told: a new one starts an empty catalogue


class CatalogueVersion(Table):
    """A random number that is another one after each change of the catalogue; one row."""

    token = BigIntegerField()

    class Meta:
        depends_on = (Item,)  # by triggers


class Order(Table):
    """A purchase; ``number`` is the order in which they were placed."""

    number = AutoField()
    id = UUIDField(unique=True)
    user = ForeignKeyField(User)
    price = BigIntegerField()
    placed_at = CharField()
    paid_at = CharField(null=True)


Order.add_index(Order.paid_at, Order.placed_at, where=Order.paid_at.is_null(), name="order_unpaid")


class OrderLine(Table):
    """So many of an item, as it was named and priced when it was bought."""

    order = ForeignKeyField(Order, backref="lines")
    item_id = BigIntegerField()
    name = CharField()
    price = BigIntegerField()
    quantity = IntegerField()

    class Meta:
        primary_key = CompositeKey("order", "item_id")
        without_rowid = True
