"""The three sockets of a queue: commands, work, events."""
