"""Start the inventory, or one of its commands: ``python -m inventory``."""

from inventory.app import Inventory

if __name__ == "__main__":
    Inventory.main()
