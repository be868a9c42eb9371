"""What all rooms share: leases, outcomes, verdicts, errors, and the words for them. Imports no other room.

Pure: the standard library and msgspec alone. No I/O, no clock, no chance, no logging; time and chance are arguments.
"""
