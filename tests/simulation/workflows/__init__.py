"""The world of schedulers and flows."""
