"""Leases of a queue's jobs: taken, held, settled, and found again when they lapse."""
