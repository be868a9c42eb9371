"""The only place that wires objects together: settings in, a running instance out. `instance` is where it begins."""

from toril.bootstrap.instance import Instance, recover, running

__all__ = ["Instance", "recover", "running"]
