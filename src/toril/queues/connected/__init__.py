"""Who works on queues over a connection or by leases, in the whole fleet."""
