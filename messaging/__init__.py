"""Events without loss: an outbox, an inbox, and the exchange thread between them and the broker."""
