"""An add with one process and with several, each of which has a quarter of a core and no more.

On two cores two processes, Redis and the load wait for each other, so that two show no more than one. Held to a quarter
of a core they are like processes with cores of their own, four times as slow, on a machine that has cores to spare.
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks import payload, procfs
from benchmarks.growing import TOKEN, Figures, Options, Steps, add, load, median_of_each
from benchmarks.held_cpu import held
from benchmarks.interleaved import cpu_us
from benchmarks.servers import TORIL, start_target, start_valkey
from benchmarks.target import Target

_PROCESSES = (1, 2, 4)
_SHARE = 0.25
_CONNECTIONS = 32


def processes_apart(options: Options) -> Steps:
    """Add over 32 connections to one, two and four processes in turns; each has its own Valkey and its own port."""
    seen: dict[str, list[Figures]] = {}
    with ExitStack() as stack:
        targets: dict[int, Target] = {}
        for count in _PROCESSES:
            command = TORIL.replace("--processes 1", f"--processes {count}")
            targets[count] = start_target(stack, "toril", command, start_valkey(stack), TOKEN)
            load(targets[count], [add("warm", payload.jobs(1))], 8, 0, 1.0)
            stack.enter_context(held(procfs.tree(targets[count].pid or 0), _SHARE))
        for _ in range(options.rounds):
            one_per_s = 0.0
            for count, target in targets.items():
                before = _cpu_us(target)
                found = load(target, [add("held", payload.jobs(1))], _CONNECTIONS, 0, options.seconds)
                used_us = _cpu_us(target) - before
                per_s = found.answered / found.seconds
                one_per_s = one_per_s or per_s
                figures = {
                    "of the adds of one process": per_s / one_per_s,
                    "adds/s": per_s,
                    "µs of CPU each": used_us / max(1, found.answered),
                    "of a core": used_us / 1e6 / found.seconds,
                }
                seen.setdefault(str(count), []).append(figures)
    return median_of_each(seen)


def _cpu_us(target: Target) -> float:
    return sum(cpu_us(pid) for pid in procfs.tree(target.pid or 0))
