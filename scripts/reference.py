"""Generate the tables of `docs/reference` from the source: `python -m scripts.reference`.

Settings, metrics and commands are tables in the source. Their pages hold a generated part between two comments. The
result is checked in, so that the pages can be read in the repository, and `tests/unit/test_reference_pages.py` fails if
a part is not what the source says.

Routes and modules are described by docstrings, which change far more often. `scripts/site_pages.py` generates those
when the site is built.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from toril.cli.main import toril
from toril.config.meanings import PROXY_SETTINGS_MEAN, SETTINGS_MEAN, UPSTREAM_KEYS_MEAN
from toril.config.settings import Settings
from toril.config.table import SETTINGS
from toril.core.metrics import METRICS
from toril.core.settings.setting import Setting
from toril.proxy.rules.upstream import Upstream
from toril.proxy.settings import PROXY_SETTINGS
from toril.proxy.upstream_settings import UPSTREAM_KEYS

PAGES = Path(__file__).parents[1] / "docs" / "reference"
NOTHING = "\N{EN DASH}"
UPSTREAM_FIELDS = {
    "timeout": "timeout_s",
    "maxRetries": "max_retries",
    "retryDelay": "retry_delay_s",
    "maxBodySize": "max_body_bytes",
    "directProxyThreshold": "direct_threshold_bytes",
    "directProxyMode": "direct_mode",
    "pathFilter.mode": "path_filter.mode",
}
"""The field of `Upstream` behind each key that has a default worth showing."""
SHOWN_OTHERWISE = {"redis.url": NOTHING, "redis.addr": "`localhost:6379`", "listenAddress": "`127.0.0.1:8080`"}
"""Defaults that are made of several values, or of none."""


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shown(value: Any) -> str:
    """A default as a reader would write it into the file."""
    if value is None or value in ((), {}, ""):
        return NOTHING
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{duration(value)}`"
    return f"`{value}`"


def duration(seconds: float) -> str:
    """Seconds in Go's syntax, in the largest unit that fits: 1h, 5m, 30s, 1.5s."""
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s" if seconds else "0"


def _field(holder: Any, path: str) -> Any:
    for name in path.split("."):
        holder = getattr(holder, name)
    return holder


def _default(setting: Setting) -> str:
    return SHOWN_OTHERWISE.get(setting.key) or shown(_field(Settings(), setting.target))


def settings() -> str:
    """Every setting but those of the async proxy."""
    return table(
        ("key", "environment", "default", "meaning"),
        (
            (
                f"`{one.key}`",
                ", ".join(f"`{name}`" for name in one.env) or NOTHING,
                _default(one),
                SETTINGS_MEAN[one.key],
            )
            for one in SETTINGS
            if one not in PROXY_SETTINGS
        ),
    )


def proxy_settings() -> str:
    """proxq's keys, and toril's beside them."""
    rows: list[tuple[str, ...]] = []
    upstream = Upstream(prefix="/", url="http://upstream")
    for one in PROXY_SETTINGS:
        rows.append((f"`{one.key}`", _default(one), PROXY_SETTINGS_MEAN[one.key]))
        if one.key == "upstreams":
            for key in UPSTREAM_KEYS:
                field = UPSTREAM_FIELDS.get(key)
                value = shown(_field(upstream, field)) if field else NOTHING
                rows.append((f"`upstreams[].{key}`", value, UPSTREAM_KEYS_MEAN[key]))
    return table(("key", "default", "meaning"), rows)


def metrics() -> str:
    """Every metric."""
    return table(
        ("metric", "kind", "labels", "meaning"),
        (
            (f"`{one.name}`", one.kind, ", ".join(f"`{label}`" for label in one.labels), f"{one.help}.")
            for one in METRICS
        ),
    )


def commands() -> str:
    """Every command with its options, as `--help` has them."""
    context = click.Context(toril, info_name="toril", **toril.context_settings)
    return "\n\n".join(part for name in toril.list_commands(context) for part in _described(context, toril, name))


def _described(above: click.Context, group: click.Group, name: str) -> Iterator[str]:
    """A command's heading, what it does and its options; of a group, those of each of its commands."""
    command = group.get_command(above, name)
    if command is None:
        raise ValueError(f"{name} is listed and is no command")
    context = click.Context(command, info_name=name, parent=above)
    yield f"## {context.command_path}"
    yield _sentence(inspect.cleandoc(command.help or ""))
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            yield from _described(context, command, below)
        return
    rows = [(f"`{_option(param, context)}`", _meaning(param)) for param in command.params]
    if rows:
        yield table(("option", "meaning"), rows)


def _option(param: click.Parameter, context: click.Context) -> str:
    if isinstance(param, click.Argument):
        return param.make_metavar(context)
    names = ", ".join([*param.opts, *param.secondary_opts])
    if isinstance(param, click.Option) and param.is_flag:
        return names
    if isinstance(param.type, click.Choice):
        return f"{names} {{{','.join(param.type.choices)}}}"
    return f"{names} {param.make_metavar(context)}{' …' if param.multiple else ''}"


def _meaning(param: click.Parameter) -> str:
    return _sentence(getattr(param, "help", None) or "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


GENERATED: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "configuration.md": {"settings": settings},
    "proxy.md": {"proxy settings": proxy_settings},
    "metrics.md": {"metrics": metrics},
    "cli.md": {"commands": commands},
}
"""The generated parts by page."""


def filled(page: str, text: str) -> str:
    """The text of a page with its generated parts as the source has them now."""
    for name, generate in GENERATED[page].items():
        begin, end = f"<!-- generated: {name} -->", "<!-- end -->"
        part = re.compile(rf"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        if not part.search(text):
            raise ValueError(f"{page} has no place for its generated part: {begin}")
        whole = f"{begin}\n\n{generate()}\n\n{end}"
        text = whole.join(part.split(text, maxsplit=1))
    return text


def main() -> int:
    """Write the generated parts into the pages."""
    for page in GENERATED:
        file = PAGES / page
        text = file.read_text()
        if (new := filled(page, text)) != text:
            file.write_text(new)
            print(f"{file.name} is written anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
