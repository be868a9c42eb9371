"""The world of workers on sockets."""
