"""WebSockets of the queues door: commands, work and events."""
