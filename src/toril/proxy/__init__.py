"""The async proxy: a request becomes a job and a `202`; the upstream's answer is replayed later."""
