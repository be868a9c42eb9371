"""What the rooms need of each other, as small Protocols. `toril.bootstrap` hands in the implementations.

Unless a method says otherwise it may raise `StoreUnavailable` (nothing was written) or its subclasses
`ConnectionLost` and `StoreTimeout` (whether it was written is unknown).
"""
