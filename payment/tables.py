"""The payment service's tables; a change here needs the next file in ``migrations``."""

from peewee import AutoField, BigIntegerField, BooleanField, CharField, UUIDField

from runtime.storage.database import Table


class Payment(Table):
    """A payment that succeeded, for an order or direct."""

    id = AutoField()
    user_id = BigIntegerField(index=True)
    price = BigIntegerField()
    order_id = UUIDField(null=True, unique=True)
    paid_at = CharField()
    announced = BooleanField(default=False)  # on the console


# The index holds only the few payments to announce.
Payment.add_index(Payment.id, where=~Payment.announced, name="payment_to_announce")


class Total(Table):
    """What a user has paid; the row of ``user_id`` 0, which no user has, is for all users."""

    kept_by_triggers = True

    user_id = BigIntegerField(primary_key=True)
    count = BigIntegerField()
    sum = BigIntegerField()


Total.add_index(Total.index(Total.sum.desc(), Total.user_id, where=Total.user_id > 0))
