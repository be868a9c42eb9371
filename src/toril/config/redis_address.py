"""Redis in the configuration: its address, the Sentinels that know it, and what it must have kept to acknowledge."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec.structs import replace
from redis.asyncio.connection import parse_url

from toril.core.settings.values import boolean, secret_text, text, texts
from toril.redis.policy import Acknowledge, RedisAddress

SENTINEL_PORT = 26379
_MOST_REPLICAS = 100
_OF_SENTINELS = {"sentinel_username", "sentinel_password", "sentinel_tls"}
_SENTINEL_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}


def no_redis(value: Any) -> bool:
    """Return True for the word `none`: this toril has no Redis.

    Raises:
        ValueError: for anything else.
    """
    if value != "none":
        raise ValueError("it must be a section (url, host and so on), or the word none, which means PostgreSQL alone")
    return True


def redis_address(value: Any) -> RedisAddress:
    """Return the address that a URL names, its query options included.

    It is `redis://`, `rediss://`, `unix://`, or with `+sentinel` the Sentinels of a master:
    `redis+sentinel://user:password@host:26379,host:26379/master/db`.

    Raises:
        ValueError: without repeating the URL, which may hold a password.
    """
    url = secret_text(value)
    scheme, separator, rest = url.partition("://")
    if separator and scheme in _SENTINEL_SCHEMES:
        return _named_by_sentinels(_SENTINEL_SCHEMES[scheme], rest)
    try:
        parts: dict[str, Any] = dict(parse_url(url))
    except ValueError:
        # Its own message would repeat the password.
        raise ValueError("it is not a redis://, rediss://, unix:// or redis+sentinel:// URL") from None
    port, db = int(parts.get("port") or 6379), int(parts.get("db") or 0)
    if not 0 < port < 65536 or db < 0:
        raise ValueError("its port or its database number is out of range")
    return RedisAddress(
        host=parts.get("host") or "localhost",
        port=port,
        path=parts.get("path"),
        db=db,
        username=parts.get("username"),
        password=parts.get("password"),
        tls=url.startswith("rediss://"),
        ca_file=parts.get("ssl_ca_certs"),
        cert_file=parts.get("ssl_certfile"),
        key_file=parts.get("ssl_keyfile"),
        verify=parts.get("ssl_cert_reqs", "required") != "none",
    )


def sentinels(value: Any) -> tuple[tuple[str, int], ...]:
    """Return host and port of each Sentinel of a list, or of one text with commas between them.

    The port is 26379 where none is written; an IPv6 address with a port has brackets.
    """
    found = tuple(_place(one.strip()) for one in texts(value))
    if not found:
        raise ValueError("it names no Sentinel")
    return found


def acknowledge(value: Any) -> Acknowledge:
    """Return what `memory`, `fsync` or `replicas:N` asks for."""
    kind, colon, count = text(value).partition(":")
    if kind in ("memory", "fsync") and not colon:
        return Acknowledge("memory" if kind == "memory" else "fsync")
    if kind == "replicas" and count.isdecimal() and 1 <= int(count) <= _MOST_REPLICAS:
        return Acknowledge("replicas", int(count))
    raise ValueError(f"{value!r} is none of memory, fsync and replicas:N (N from 1 to {_MOST_REPLICAS})")


def _place(place: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname, SENTINEL_PORT if parts.port is None else parts.port
    except ValueError:
        host, port = None, 0
    if not host or not port or "@" in place or any(mark in place for mark in "/?#"):
        raise ValueError(f"{place!r} is not the host:port of a Sentinel")
    return host, port


def _named_by_sentinels(scheme: str, rest: str) -> RedisAddress:
    place, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    own = {name: options.pop(name) for name in _OF_SENTINELS & options.keys()}
    places, _, path = place.partition("/")
    login, at, hosts = places.rpartition("@")
    master, _, db = path.partition("/")
    if not master:
        raise ValueError("it names no master: redis+sentinel://host:26379,host:26379/master/db")
    if db and not db.isdigit():
        raise ValueError("what comes behind the master is the number of a database: redis+sentinel://host/master/0")
    # The rest is said as in any other URL.
    plain = "&".join(f"{name}={value}" for name, value in options.items())
    address = redis_address(f"{scheme}://{login}{at}sentinel/{db}{'?' * bool(plain)}{plain}")
    return replace(
        address,
        host="",
        sentinels=sentinels(unquote(hosts)),
        sentinel_master=unquote(master),
        sentinel_username=own.get("sentinel_username") or None,
        sentinel_password=own.get("sentinel_password") or None,
        sentinel_tls=boolean(own["sentinel_tls"]) if "sentinel_tls" in own else address.tls,
    )
