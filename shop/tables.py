"""The shop's tables; a change here needs the next file in ``migrations``."""

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
    """A user, who can buy."""

    id = AutoField()
    name = CharField()
    folded_name = TextField(null=True)  # for searches; null in rows of earlier versions


class Item(Table):
    """An item as the warehouse last announced it."""

    id = BigIntegerField(primary_key=True)
    name = CharField()
    price = BigIntegerField()
    active = BooleanField()
    version = IntegerField()
    epoch = BlobField(index=True)  # of its stream: a new one starts an empty catalogue


class CatalogueVersion(Table):
    """A random number that triggers replace at each change of the catalogue; one row."""

    token = BigIntegerField()

    class Meta:
        depends_on = (Item,)  # its triggers are there


class Order(Table):
    """A purchase; ``number`` counts purchases in the sequence of their commits."""

    number = AutoField()
    id = UUIDField(unique=True)
    user = ForeignKeyField(User)
    price = BigIntegerField()
    placed_at = CharField()
    paid_at = CharField(null=True)


Order.add_index(Order.paid_at, Order.placed_at, where=Order.paid_at.is_null(), name="order_unpaid")


class OrderLine(Table):
    """An item of an order, with the name and price of its purchase."""

    order = ForeignKeyField(Order)
    item_id = BigIntegerField()
    name = CharField()
    price = BigIntegerField()
    quantity = IntegerField()

    class Meta:
        primary_key = CompositeKey("order", "item_id")
        without_rowid = True
