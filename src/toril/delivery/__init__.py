"""The delivery door: an envelope is recorded in a ledger and sent to its target until it arrives or is
dead-lettered.
"""
