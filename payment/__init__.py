"""The payment desk: pays what the shop has placed, and direct payments."""
