"""The targets' queues in PostgreSQL, for an instance without Redis: jobs, leases, pauses, holds and breakers."""
