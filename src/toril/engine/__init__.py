"""The engine, from a stored job to a settled job, for all destinations.

`supervisor` owns the tasks and starts and stops consumers; a `consumer` leases jobs for one destination; the
`executor` is one job's pipeline. Nothing here knows Redis, HTTP or a door: see `ports`.
"""
