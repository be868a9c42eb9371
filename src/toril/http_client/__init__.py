"""Outbound HTTP/1.1: connections, name look-ups, and the networks that requests may reach."""
