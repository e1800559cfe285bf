"""How messages travel: over the forwarder or NATS JetStream."""
