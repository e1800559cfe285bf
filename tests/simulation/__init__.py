"""The whole shop in one thread, under one seed: clocks, network, scheduler and disks are simulated.

The publisher, follower, reader, exchange, journal, rules and handlers are the product's own, and so
are the SQLite files. ``python -m tests.simulation --help`` runs campaigns.
"""
