"""Adapters: one technology behind one port each, named `<technology>_<port>`."""
