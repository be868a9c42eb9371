"""Rules of the delivery door: envelopes, the lifecycle of a delivery, retries, the circuit breaker. Pure."""
