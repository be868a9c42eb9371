"""What callers are told of only when it is on disk or with replicas, as `acknowledge` asks."""
