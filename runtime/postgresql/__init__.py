"""PostgreSQL in the place of a service's file: the database, and the way there."""
