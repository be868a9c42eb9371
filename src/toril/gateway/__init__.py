"""Inbound HTTP: routes, authentication, shapes and error answers. No decisions.

Knows `toril.core` only; what it works on comes through ports.
"""
