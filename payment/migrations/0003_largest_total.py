"""A total ends at the largest number: beyond it SQLite rounded, and PostgreSQL refused payments."""

from peewee import SqliteDatabase

LARGEST = 2**63 - 1
SQLITE = f"""
    CREATE TRIGGER totals AFTER INSERT ON payment BEGIN
        INSERT INTO total (user_id, count, sum)
        VALUES (0, 1, NEW.price), (NEW.user_id, 1, NEW.price)
        ON CONFLICT (user_id) DO UPDATE
        SET count = count + 1, sum = min(sum + excluded.sum, {LARGEST});
    END"""
POSTGRESQL = f"""
    CREATE OR REPLACE FUNCTION add_to_totals() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO total (user_id, count, sum)
        SELECT COALESCE(user_id, 0), COUNT(*), LEAST(SUM(price), {LARGEST})
        FROM added GROUP BY GROUPING SETS ((), user_id) HAVING COUNT(*) > 0
        ON CONFLICT (user_id) DO UPDATE
        SET count = total.count + excluded.count,
            sum = LEAST(total.sum::numeric + excluded.sum, {LARGEST});
        RETURN NULL;
    END $$"""


def up(migrator, db):
    if isinstance(db, SqliteDatabase):
        db.execute_sql("DROP TRIGGER totals")
        db.execute_sql(f"UPDATE total SET sum = {LARGEST} WHERE typeof(sum) = 'real'")
    db.execute_sql(SQLITE if isinstance(db, SqliteDatabase) else POSTGRESQL)
