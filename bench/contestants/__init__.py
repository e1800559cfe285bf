"""What the shop is compared with; each module that serves is started with ``python -m``."""
