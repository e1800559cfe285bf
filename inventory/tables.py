"""The inventory's tables; a change here needs the next file in ``migrations``."""

from peewee import AutoField, BigIntegerField, BooleanField, CharField, IntegerField

from runtime.storage.database import Table


class Item(Table):
    """An item of the warehouse; ``version`` counts its changes."""

    id = AutoField()
    name = CharField()
    price = BigIntegerField()
    active = BooleanField(default=True)
    version = IntegerField(default=1)


class ItemsVersion(Table):
    """A random number that triggers replace at each change of the items; one row."""

    token = BigIntegerField()

    class Meta:
        depends_on = (Item,)  # its triggers are there
