"""The dashboard: static ES modules, and the route that serves them. All its data comes from the public API."""
