"""Inbound request → stored job. Knows no HTTP and none of the other rooms; calls what `toril.core.ports` says."""
