"""BullMQ's Lua scripts, our additions to them, and our own scripts beside them."""
