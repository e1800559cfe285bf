"""Databases, and the one thread that writes to them."""
