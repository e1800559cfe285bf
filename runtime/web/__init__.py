"""The HTTP side of a service; it knows the storage below it, and no events."""
