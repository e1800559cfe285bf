"""Payments."""

from peewee import AutoField, BigIntegerField, BooleanField, CharField, UUIDField


def up(migrator, db):
    class Payment(db.Model):
        id = AutoField()
        user_id = BigIntegerField(index=True)
        price = BigIntegerField()
        order_id = UUIDField(null=True, unique=True)
        paid_at = CharField()
        announced = BooleanField(default=False)

        class Meta:
            legacy_table_names = False

    Payment.add_index(Payment.id, where=~Payment.announced, name="payment_to_announce")
    db.create_tables([Payment])
