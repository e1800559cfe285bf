"""The payment service's tables; their history is in ``migrations``."""

from peewee import AutoField, BigIntegerField, BooleanField, CharField, UUIDField

from runtime.database import Table


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
