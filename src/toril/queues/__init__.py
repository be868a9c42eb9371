"""The queues door: REST and WebSocket access to any BullMQ queue, registered HTTP workers, leases over HTTP."""
