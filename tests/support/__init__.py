"""Real parts for the tests: a Valkey, a toril, an HTTP endpoint, and a way to wait for facts."""
