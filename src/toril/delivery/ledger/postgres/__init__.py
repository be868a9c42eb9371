"""The statements that the ledger in PostgreSQL sends."""
