"""The payment service: pays the shop's orders, and takes direct payments."""
