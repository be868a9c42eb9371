"""Spans of requests and attempts, where OpenTelemetry is asked for."""
