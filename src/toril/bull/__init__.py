"""BullMQ on Redis: one multiplexed connection, BullMQ's own Lua scripts, a few blocking waits.

Nothing here knows HTTP. Key names, argument order and return codes are BullMQ's, confined to this room.
"""
