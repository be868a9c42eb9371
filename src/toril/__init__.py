"""toril: an HTTP gateway over BullMQ queues.

Anything that speaks HTTP or WebSocket can add jobs, work on them, or become asynchronous, without a Redis
client and without Node. Start at `toril.instance`, which wires the rooms together.
"""

from importlib.metadata import version

__version__ = version("toril")
