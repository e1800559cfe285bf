"""Databases, and the one thread that writes into them."""
