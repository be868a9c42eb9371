"""BullMQ on Redis: its keys, its Lua scripts, its events and markers.

Nothing here knows HTTP. Key names, argument order and return codes are BullMQ's, and stay in this package.
"""
