"""The world of the async proxy."""
