"""SQL enqueue: `toril.enqueue` in the caller's own transaction, and how its rows come into the targets' queues."""
