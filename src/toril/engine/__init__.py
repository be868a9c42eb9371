"""Stored job → settled job. One engine for all destinations.

`supervisor` owns the tasks and starts and stops consumers; a `consumer` leases jobs for one destination; the
`executor` is one job's pipeline. Nothing here knows Redis or HTTP: both come through `toril.core.ports`.
"""
