"""What the doors use of BullMQ queues, as small Protocols. `toril.bullmq` implements them.

Unless a method says otherwise it may raise `StoreUnavailable` (nothing was written) or its subclasses
`ConnectionLost` and `StoreTimeout` (it may have been written).
"""
