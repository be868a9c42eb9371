"""Finds settings that contradict each other, although each is valid alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

from toril.config.settings import Settings
from toril.proxy.rules.upstream import DEFAULT_API_PATH
from toril.proxy.settings import collisions


def contradictions(settings: Settings) -> list[str]:
    """Return what is wrong with settings taken together, one text each."""
    faults = []
    if settings.gateway.min_queue_name_length > settings.gateway.max_queue_name_length:
        faults.append("min_queue_name_length is greater than max_queue_name_length")
    faults.extend(_tokens_given_twice(settings))
    if settings.store.worker_hash == settings.store.worker_stream:
        faults.append("workers.hash and workers.stream are the same Redis key")
    if settings.without_redis:
        faults.extend(_without_redis(settings))
    elif settings.redis.cluster:
        faults.extend(_against_a_cluster(settings))
    if settings.redis.cluster and settings.redis.sentinels:
        faults.append("redis.sentinels and redis.cluster exclude each other: a cluster has no Sentinels")
    if settings.redis.sentinels and not settings.redis.sentinel_master:
        faults.append("redis.sentinels need redis.sentinel_master, the name under which they know the master")
    if settings.redis.sentinel_master and not settings.redis.sentinels:
        faults.append("redis.sentinel_master needs redis.sentinels, which know where it is")
    for name in ("ca_file", "cert_file", "key_file"):
        path = getattr(settings.redis, name)
        if path is not None and not Path(path).is_file():
            faults.append(f"redis.{name}: {path} is not a file")
    told = settings.events.target
    if told is not None and told not in {target.name for target in settings.targets}:
        faults.append(f"events.target: there is no target {told}")
    if settings.proxy.upstreams:
        faults.extend(collisions(settings.proxy))
        faults.extend(_targets_out_of_reach(settings))
    return faults


def _without_redis(settings: Settings) -> list[str]:
    """Name what an instance without Redis cannot do, or needs."""
    faults = []
    if not settings.targets:
        faults.append("redis: none needs targets: the delivery door is all that works without Redis")
    elif not settings.ledger.url.startswith(("postgresql://", "postgres://")):
        faults.append("redis: none needs ledger.url with a PostgreSQL database (postgresql://…)")
    if settings.proxy.upstreams:
        faults.append("redis: none goes with targets alone: upstreams need Redis")
    if settings.store.acknowledge.kind != "memory":
        faults.append("acknowledge is about writes to Redis, which redis: none has not")
    return faults


def _tokens_given_twice(settings: Settings) -> list[str]:
    plain = {hashlib.sha256(token.encode()).digest() for token in settings.gateway.auth_tokens}
    return [
        f"tokens, number {number} ({grant.caller.name}): auth_tokens has it too, with all rights"
        for number, grant in enumerate(settings.gateway.tokens, 1)
        if grant.sha256 in plain
    ]


def _against_a_cluster(settings: Settings) -> list[str]:
    faults = []
    store, proxy = settings.store, settings.proxy
    tag = _hash_tag(store.worker_hash)
    if tag is None or tag != _hash_tag(store.worker_stream):
        faults.append(
            "with redis.cluster, workers.hash and workers.stream need the same hash tag, such as {bmqp}:w:meta"
        )
    if settings.redis.db:
        faults.append("with redis.cluster there is no database but 0")
    if proxy.upstreams and _hash_tag(f"{store.queue_prefix}:{proxy.queue}") is None:
        faults.append("with redis.cluster, queue needs a hash tag, such as {default}")
    return faults


def _targets_out_of_reach(settings: Settings) -> list[str]:
    """Name the targets whose callers would reach an upstream instead, which would get toril's tokens."""
    everything = next((one for one in settings.proxy.upstreams if one.prefix == "/"), None)
    if everything is None or not settings.targets or settings.proxy.api_path is not None:
        return []
    names = ", ".join(target.name for target in settings.targets)
    fault = (
        f"targets ({names}) are configured together with an upstream at the prefix / ({everything.url}), which takes "
        f"every path: it would get what is posted to /enqueue, and toril's tokens with it; name a path for toril's own "
        f"API, such as apiPath: {DEFAULT_API_PATH}"
    )
    return [fault]


def _hash_tag(key: str) -> str | None:
    """Return the part of a key that decides its slot in a Redis Cluster; None if there is none."""
    _, brace, rest = key.partition("{")
    tag, closing, _ = rest.partition("}")
    return tag if brace and closing and tag else None
