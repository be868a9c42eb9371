"""The only place that wires objects together: settings in, a running instance out. `instance` is where it begins."""

from toril.instance.instance import Instance
from toril.instance.running import recover, running

__all__ = ["Instance", "recover", "running"]
