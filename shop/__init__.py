"""The shop: users, the catalogue as heard from the warehouse, and orders."""
