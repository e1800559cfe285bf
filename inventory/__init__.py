"""The warehouse: which items there are, and which of them can be sold."""
