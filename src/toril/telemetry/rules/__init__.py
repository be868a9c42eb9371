"""Statistics without I/O: points in time, what happened since the last look, and what a series says."""
