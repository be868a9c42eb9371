"""Serving an instance: sockets, signals, drain, several processes, and our changes to uvicorn's protocols."""
