"""The warehouse: its items, and which of them are for sale."""
