"""The forwarder and, beside it, the journal; they know no service and no event type."""
