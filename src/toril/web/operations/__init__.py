"""Routes for operators: health and readiness, metrics, reloads; and the time before a shutdown."""
