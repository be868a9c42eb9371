"""Reads the environment and the configuration file into `Settings`, and names every fault at once."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace
from redis.asyncio.connection import parse_url

from toril.config.proxy_settings import PROXY_SETTINGS
from toril.config.secret_files import SecretFiles
from toril.config.settings import DEFAULT, SETTINGS, Setting
from toril.config.targets import targets
from toril.config.tokens import Faults
from toril.config.upstreams import collisions, completed
from toril.config.yaml_file import read_yaml
from toril.core.errors import ConfigInvalid
from toril.core.policy import RedisAddress, Settings
from toril.core.upstream import DEFAULT_API_PATH

_S = TypeVar("_S", bound=msgspec.Struct)

# Settings that mean nothing without upstreams.
_OF_A_PROXY = frozenset(setting.key for setting in PROXY_SETTINGS)
_ALL = (*SETTINGS, *PROXY_SETTINGS)


PROXQ_FILE = "PROXQ_CONFIG"
_HERE = Path("config.yaml")
_NAMES_UPSTREAMS = re.compile(r"""^["']?upstreams["']?\s*:""", re.MULTILINE)


def config_file(given: Path | None, environment: Mapping[str, str]) -> Path | None:
    """The configuration file: the one that is given, else the one that `PROXQ_CONFIG` names.

    Else, as proxq does, `config.yaml` in the current folder; but only if it has upstreams, because any program may have
    a file of that name.
    """
    if given is not None:
        return given
    named = environment.get(PROXQ_FILE)
    if named:
        return Path(named)
    try:
        return _HERE if _NAMES_UPSTREAMS.search(_HERE.read_text()) else None
    except (OSError, UnicodeDecodeError):
        return None


def load(
    environment: Mapping[str, str],
    file: Path | None = None,
    secrets: SecretFiles | None = None,
    *,
    again: bool = False,
) -> Settings:
    """The settings of this process.

    Args:
        secrets: reads the files that hold secrets.
        again: they have been read before, so that a file with nothing in it is one that is being written, or a mistake.

    Raises:
        ConfigInvalid: with every fault, each naming the key or the variable.
    """
    faults: list[str] = []
    files = secrets if secrets is not None else SecretFiles()
    given = _from_file(file, faults, files, again=again) if file is not None else {}
    as_proxq = file is not None and environment.get(PROXQ_FILE) == str(file)
    has_proxy = as_proxq or not _OF_A_PROXY.isdisjoint(given)
    given |= _from_environment(environment, faults)
    settings = _assemble(given)
    if has_proxy and not settings.proxy.upstreams and not any("upstreams" in fault for fault in faults):
        faults.append(f"{file} has no upstreams: the async proxy needs at least one upstream")
    faults.extend(_contradictions(settings))
    if faults:
        raise ConfigInvalid(faults)
    return settings


def _from_environment(environment: Mapping[str, str], faults: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for setting in _ALL:
        # An empty variable counts as unset, as in BullMQ Proxy.
        name = next((name for name in setting.env if environment.get(name)), None)
        if name is not None:
            _parse(setting, environment[name], f"the environment variable {name}", given, faults)
    if environment.get("DEBUG") == "true" and not environment.get("TORIL_LOG_LEVEL"):
        given["log.level"] = "debug"
    return given


def _from_file(file: Path, faults: list[str], secrets: SecretFiles, *, again: bool) -> dict[str, Any]:
    try:
        document = read_yaml(file)
    except ValueError as exc:
        faults.append(str(exc))
        return {}
    if document is None:
        if again:
            faults.append(f"{file} is empty; to run without its settings, restart without the file")
        return {}
    if not isinstance(document, dict):
        faults.append(f"{file} must hold a mapping of settings")
        return {}
    given: dict[str, Any] = {}
    known = {setting.key: setting for setting in _ALL}
    known["targets"] = replace(known["targets"], parse=partial(targets, secrets=secrets))
    sections = {key.partition(".")[0] for key in known if "." in key}
    for key, value in _flat(document, sections):
        setting = known.get(key)
        if setting is None:
            faults.append(_unknown(file, key, known))
        else:
            _parse(setting, value, f"{key} in {file}", given, faults)
    return given


def _flat(document: dict[Any, Any], sections: set[str]) -> Iterable[tuple[str, Any]]:
    for key, value in document.items():
        if key in sections and value is None:
            continue  # a section with nothing in it
        if key in sections and isinstance(value, dict):
            yield from ((f"{key}.{inner}", inner_value) for inner, inner_value in value.items())
        else:
            yield str(key), value


def _unknown(file: Path, key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"{file} has an unknown key {key}" + (f"; did you mean {near[0]}?" if near else "")


def _parse(setting: Setting, value: Any, where: str, given: dict[str, Any], faults: list[str]) -> None:
    try:
        parsed = setting.parse(value)
        if parsed is not DEFAULT:
            given[setting.key] = _address(parsed) if setting.key == "redis.url" else parsed
    except Faults as exc:
        faults.extend(f"{where}, {fault}" for fault in exc.faults)
    except ValueError as exc:
        faults.append(f"{where}: {exc}")


def _address(url: str) -> RedisAddress:
    """A Redis URL (`redis://`, `rediss://`, `unix://`), its query options included."""
    try:
        parts: dict[str, Any] = dict(parse_url(url))
    except ValueError:
        # Its own message would repeat the password.
        raise ValueError("it is not a redis://, rediss:// or unix:// URL") from None
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


def _assemble(given: dict[str, Any]) -> Settings:
    sections: dict[str, dict[str, Any]] = {}
    # A URL says all about the address; the single settings are for where there is none.
    address = given.pop("redis.url", None)
    proxied = "upstreams" in given
    listen = given.pop("listenAddress", ("127.0.0.1", 8080) if proxied else None)
    if listen is not None:
        given = {"host": listen[0] or "::", "port": listen[1]} | given  # `:8080` is both families, as in Go
    redis = given.pop("redis.addr", None)
    if redis is not None:
        given = {"redis.host": redis[0] or "127.0.0.1", "redis.port": redis[1]} | given
    for setting in _ALL:
        if setting.key in given:
            section, _, field = setting.target.rpartition(".")
            sections.setdefault(section, {})[field] = given[setting.key]
    settings = Settings(**sections.pop("", {}))
    if address is not None:
        cluster = sections.pop("redis", {}).get("cluster", False)
        address = msgspec.structs.replace(address, cluster=cluster)
        settings = msgspec.structs.replace(settings, redis=address)
    for section, fields in sections.items():
        settings = _replaced(settings, section.split("."), fields)
    return msgspec.structs.replace(settings, proxy=completed(settings.proxy, given))


def _replaced(struct: _S, path: list[str], fields: dict[str, Any]) -> _S:
    """A struct with fields of one of its inner structs replaced; `path` leads there."""
    if not path:
        return msgspec.structs.replace(struct, **fields)
    inner = _replaced(getattr(struct, path[0]), path[1:], fields)
    return msgspec.structs.replace(struct, **{path[0]: inner})


def _contradictions(settings: Settings) -> list[str]:
    faults = []
    if settings.gateway.min_queue_name_length > settings.gateway.max_queue_name_length:
        faults.append("min_queue_name_length is greater than max_queue_name_length")
    plain = {hashlib.sha256(token.encode()).digest() for token in settings.gateway.auth_tokens}
    for number, grant in enumerate(settings.gateway.tokens, 1):
        if grant.sha256 in plain:
            faults.append(f"tokens, number {number} ({grant.caller.name}): auth_tokens has it too, with all rights")
    if settings.store.worker_hash == settings.store.worker_stream:
        faults.append("workers.hash and workers.stream are the same Redis key")
    if settings.redis.cluster:
        if _hash_tag(settings.store.worker_hash) is None or _hash_tag(settings.store.worker_hash) != _hash_tag(
            settings.store.worker_stream
        ):
            faults.append(
                "with redis.cluster, workers.hash and workers.stream need the same hash tag, such as {bmqp}:w:meta"
            )
        if settings.redis.db:
            faults.append("with redis.cluster there is no database but 0")
    for name in ("ca_file", "cert_file", "key_file"):
        path = getattr(settings.redis, name)
        if path is not None and not Path(path).is_file():
            faults.append(f"redis.{name}: {path} is not a file")
    if settings.proxy.upstreams:
        faults.extend(_proxy_contradictions(settings))
    return faults


def _proxy_contradictions(settings: Settings) -> list[str]:
    faults = collisions(settings.proxy)
    faults.extend(_targets_out_of_reach(settings))
    if settings.redis.cluster and _hash_tag(f"{settings.store.queue_prefix}:{settings.proxy.queue}") is None:
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
    """The part of a key that decides its slot in a Redis Cluster, where there is one."""
    _, brace, rest = key.partition("{")
    tag, closing, _ = rest.partition("}")
    return tag if brace and closing and tag else None
