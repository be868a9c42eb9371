"""Deliveries of a target that are made by a program on a WebSocket, such as `toril listen --target`."""
