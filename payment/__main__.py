"""Start the payment service, or one of its commands: ``python -m payment``."""

from payment.app import Payment

if __name__ == "__main__":
    Payment.main()
