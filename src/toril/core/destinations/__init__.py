"""Destinations: which request to make for a job, and how to judge what came of it. Pure."""
