"""Benchmarks of any server that speaks BullMQ Proxy's HTTP wire, and the ceilings to read them against."""
