"""Large bodies in an object store, with a reference to them left in Redis or the ledger."""
