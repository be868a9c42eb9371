"""docs/reference/configuration.md and the settings say the same."""

import re
from pathlib import Path
from typing import Any

import pytest

from toril.config.settings import Settings
from toril.config.table import SETTINGS
from toril.core.settings.setting import Setting
from toril.core.times import parse_duration_s
from toril.proxy.settings import PROXY_SETTINGS

TABLE = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"
ROW = re.compile(r"\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|")
NOTHING = "\N{EN DASH}"
LISTED = [setting for setting in SETTINGS if setting not in PROXY_SETTINGS]
"""All but those that docs/reference/proxy.md lists."""


def documented() -> dict[str, tuple[list[str], str]]:
    """Environment variables and default by key, as the document has them."""
    rows = (ROW.match(line) for line in TABLE.read_text().splitlines())
    return {
        row[1]: ([name.strip("` ") for name in row[2].split(",")], row[3].strip("` "))
        for row in rows
        if row is not None
    }


def default_of(setting: Setting) -> Any:
    """The default in `toril.config.settings`."""
    value: Any = Settings()
    for name in setting.target.split("."):
        value = getattr(value, name)
    return value


def test_every_setting_is_documented_and_nothing_else() -> None:
    assert list(documented()) == [setting.key for setting in LISTED]


@pytest.mark.parametrize("setting", LISTED, ids=lambda setting: setting.key)
def test_variables_and_default_are_as_documented(setting: Setting) -> None:
    variables, default = documented()[setting.key]
    assert variables == (list(setting.env) or [NOTHING])
    value = default_of(setting)
    if setting.key == "redis.url" or value in (None, ()):
        assert default == NOTHING
    elif isinstance(value, bool):
        assert default == str(value).lower()
    elif isinstance(value, float):
        assert parse_duration_s(default) == value
    else:
        assert default == str(value)
