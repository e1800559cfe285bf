"""What may go wrong with a figure."""

from runtime.process.errors import ShopError


class Failed(ShopError):
    """Something that is to be measured does not do its work."""


class LeftOut(ShopError):
    """A contestant cannot take part here; its text is the reason."""
