"""Start the shop, or one of its commands: ``python -m shop``."""

from shop.app import Shop

if __name__ == "__main__":
    Shop.main()
