"""Answers of upstreams that are used again, and equal requests that share one."""
