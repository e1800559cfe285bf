"""What ``run_all.py`` can play with the whole system."""
