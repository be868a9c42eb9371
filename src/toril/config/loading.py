"""Reads the environment and the configuration file into `Settings`, and names every fault at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from toril.config.contradictions import contradictions
from toril.config.secret_files import SecretFiles
from toril.config.settings import Settings
from toril.config.table import SETTINGS, all_settings
from toril.config.yaml_file import read_yaml
from toril.core.errors import ConfigInvalid
from toril.core.settings.setting import Default, Faults, Setting
from toril.core.suggestions import did_you_mean
from toril.proxy.settings import PROXY_SETTINGS, with_api_path

_S = TypeVar("_S", bound=Struct)

# Settings that mean nothing without upstreams.
_OF_A_PROXY = frozenset(setting.key for setting in PROXY_SETTINGS)

PROXQ_FILE = "PROXQ_CONFIG"
_HERE = Path("config.yaml")
_NAMES_UPSTREAMS = re.compile(r"""^["']?upstreams["']?\s*:""", re.MULTILINE)


def config_file(given: Path | None, environment: Mapping[str, str]) -> Path | None:
    """Return the configuration file: the one that is given, else the one that `PROXQ_CONFIG` names.

    Else, as proxq does, `config.yaml` in the current folder; but only if it has upstreams, because any program may have
    a file of that name.
    """
    if given is not None:
        return given
    named = environment.get(PROXQ_FILE)
    if named:
        return Path(named)
    try:
        return _HERE if _NAMES_UPSTREAMS.search(_HERE.read_text("utf-8-sig")) else None
    except (OSError, UnicodeDecodeError):
        return None


def load(
    environment: Mapping[str, str],
    file: Path | None = None,
    secrets: SecretFiles | None = None,
    *,
    again: bool = False,
) -> Settings:
    """Return the settings of this process.

    Args:
        secrets: reads the files that hold secrets.
        again: they have been read before, so an empty file is one that is being written, or a mistake.

    Raises:
        ConfigInvalid: with every fault, each naming the key or the variable.
    """
    faults: list[str] = []
    files = secrets if secrets is not None else SecretFiles()
    given = _from_file(file, faults, files, again=again) if file is not None else {}
    named = environment.get(PROXQ_FILE)
    as_proxq = file is not None and bool(named) and Path(named or "") == file
    has_proxy = as_proxq or not _OF_A_PROXY.isdisjoint(given)
    given |= _from_environment(environment, faults)
    if "redis.url" in given and "redis.sentinels" in given:
        faults.append(
            "redis.url and redis.sentinels both say where Redis is; leave one out, or make the URL redis+sentinel://"
        )
    settings = _assemble(given)
    if has_proxy and not settings.proxy.upstreams and not any("upstreams" in fault for fault in faults):
        faults.append(f"{file} has no upstreams: the async proxy needs at least one upstream")
    faults.extend(contradictions(settings))
    if faults:
        raise ConfigInvalid(faults)
    return settings


def _from_environment(environment: Mapping[str, str], faults: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for setting in SETTINGS:
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
    known = {setting.key: setting for setting in all_settings(secrets.read)}
    sections = {key.partition(".")[0] for key in known if "." in key}
    seen: set[str] = set()
    for key, value in _flat(document, sections):
        setting = known.get(key)
        if key in seen:
            faults.append(f"{key} in {file} is given twice, in its section and as one key")
            continue
        seen.add(key)
        if setting is None:
            faults.append(f"{file} has an unknown key {key}{did_you_mean(key, known)}")
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


def _parse(setting: Setting, value: Any, where: str, given: dict[str, Any], faults: list[str]) -> None:
    try:
        parsed = setting.parse(value)
        if not isinstance(parsed, Default):
            given[setting.key] = parsed
    except Faults as exc:
        faults.extend(f"{where}, {fault}" for fault in exc.faults)
    except ValueError as exc:
        faults.append(f"{where}: {exc}")


def _assemble(given: dict[str, Any]) -> Settings:
    sections: dict[str, dict[str, Any]] = {}
    # A URL says all about the address; the single settings are for where there is none.
    address = given.pop("redis.url", None)
    if address is None and "redis.sentinels" in given:
        given |= {"redis.host": ""}
    proxied = "upstreams" in given
    listen = given.pop("listenAddress", ("127.0.0.1", 8080) if proxied else None)
    if listen is not None:
        given = {"host": listen[0] or "::", "port": listen[1]} | given  # `:8080` is both families, as in Go
    redis = given.pop("redis.addr", None)
    if redis is not None:
        given = {"redis.host": redis[0] or "127.0.0.1", "redis.port": redis[1]} | given
    for setting in SETTINGS:
        if setting.key in given:
            section, _, field = setting.target.rpartition(".")
            sections.setdefault(section, {})[field] = given[setting.key]
    settings = Settings(**sections.pop("", {}))
    if address is not None:
        cluster = sections.pop("redis", {}).get("cluster", False)
        address = replace(address, cluster=cluster)
        settings = replace(settings, redis=address)
    for section, fields in sections.items():
        settings = _replaced(settings, section.split("."), fields)
    return replace(settings, proxy=with_api_path(settings.proxy, given))


def _replaced(struct: _S, path: list[str], fields: dict[str, Any]) -> _S:
    """Return a struct with fields of one of its inner structs replaced; `path` leads there."""
    if not path:
        return replace(struct, **fields)
    inner = _replaced(getattr(struct, path[0]), path[1:], fields)
    return replace(struct, **{path[0]: inner})
