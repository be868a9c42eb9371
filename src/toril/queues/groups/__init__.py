"""The groups of a queue over HTTP: what they have, and their limits."""
