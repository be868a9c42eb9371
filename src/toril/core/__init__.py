"""The pure core: what a job, a policy, an outcome and a verdict are.

Standard library and msgspec only. No I/O, no clock, no randomness, no logging: time and chance arrive as
arguments. Everything else imports this; this imports nothing of ours.
"""
