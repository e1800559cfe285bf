"""Hides psycopg from the product's processes: peewee imports it wherever it is installed.

A shop on files has only requirements.txt, where it is not.
"""

raise ImportError("psycopg is not in requirements.txt")
