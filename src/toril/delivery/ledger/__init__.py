"""The ledger of deliveries in PostgreSQL, SQLite or Redis."""
