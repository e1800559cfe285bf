"""Running totals: what each user has paid, and what all have paid under user_id 0.

Triggers keep them, so that they hold whatever adds a payment: an older version that runs beside
this one, or a copy of all payments to a server.
"""

from peewee import BigIntegerField, SqliteDatabase

FILL = """
    INSERT INTO total (user_id, count, sum)
    SELECT 0, COUNT(*), SUM(price) FROM payment GROUP BY user_id * 0
    UNION ALL SELECT user_id, COUNT(*), SUM(price) FROM payment GROUP BY user_id"""
SQLITE = """
    CREATE TRIGGER totals AFTER INSERT ON payment BEGIN
        INSERT INTO total (user_id, count, sum)
        VALUES (0, 1, NEW.price), (NEW.user_id, 1, NEW.price)
        ON CONFLICT (user_id) DO UPDATE SET count = count + 1, sum = sum + excluded.sum;
    END"""
POSTGRESQL = """
    CREATE FUNCTION add_to_totals() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO total (user_id, count, sum)
        SELECT COALESCE(user_id, 0), COUNT(*), SUM(price)
        FROM added GROUP BY GROUPING SETS ((), user_id) HAVING COUNT(*) > 0
        ON CONFLICT (user_id) DO UPDATE
        SET count = total.count + excluded.count, sum = total.sum + excluded.sum;
        RETURN NULL;
    END $$;
    CREATE TRIGGER totals AFTER INSERT ON payment REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION add_to_totals()"""


def up(migrator, db):
    class Total(db.Model):
        user_id = BigIntegerField(primary_key=True)
        count = BigIntegerField()
        sum = BigIntegerField()

        class Meta:
            legacy_table_names = False

    Total.add_index(Total.index(Total.sum.desc(), Total.user_id, where=Total.user_id > 0))
    db.create_tables([Total])
    db.execute_sql(FILL)
    db.execute_sql(SQLITE if isinstance(db, SqliteDatabase) else POSTGRESQL)
