"""The shop: users, a copy of the warehouse's items, and orders."""
