"""Redis: one multiplexed connection, cluster links, the clock of the server, and an embedded server for trials."""
