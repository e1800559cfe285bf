"""The payment service's tables; their history is in ``migrations``."""

from peewee import AutoField, BigIntegerField, BooleanField, CharField, UUIDField

from runtime.storage.database import Table


class Payment(Table):
    """A payment that succeeded; for an order, or for none if it was made directly."""

    id = AutoField()
    user_id = BigIntegerField(index=True)
    price = BigIntegerField()
    order_id = UUIDField(null=True, unique=True)
    paid_at = CharField()
    announced = BooleanField(default=False)  # on the console


# Only the few that are to be announced are in this index.
Payment.add_index(Payment.id, where=~Payment.announced, name="payment_to_announce")


class Total(Table):
    """What a user has paid; ``user_id`` 0, which is nobody's, is for all payments together."""

    kept_by_triggers = True

    user_id = BigIntegerField(primary_key=True)
    count = BigIntegerField()
    sum = BigIntegerField()


Total.add_index(Total.index(Total.sum.desc(), Total.user_id, where=Total.user_id > 0))
