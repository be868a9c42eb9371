"""`toril demo`: the whole journey of the queues door on an embedded Valkey, then a summary."""
