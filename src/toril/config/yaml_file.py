"""Reads a YAML file as its author meant it: a key that is given twice, or is not a text, is a fault.

YAML itself lets the last of two equal keys win, so that a target is lost without a word, and reads the key `no` as
false. Whole numbers keep the text that stands for them in the file, because a password may look like one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from toril.core.settings.values import WrittenInteger

_INTEGER = "tag:yaml.org,2002:int"
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_BOOLEAN = "tag:yaml.org,2002:bool"


def read_yaml(file: Path) -> Any:
    """Return the document of a file, or None if there is nothing in it but comments.

    Raises:
        ValueError: it cannot be read; the text says where and why, and repeats no value of the file.
    """
    try:
        return yaml.load(file.read_text("utf-8-sig"), _Loader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as exc:
        raise ValueError(f"{file} cannot be read: {exc}") from exc
    except _KeyFault as exc:
        raise ValueError(f"{file}, {exc}") from None
    except yaml.YAMLError as exc:
        # Where, and nothing else: the parser's own text shows the line, which may hold a secret.
        mark = getattr(exc, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "somewhere in it"
        raise ValueError(f"{file} is not YAML: it cannot be read at {where}") from None
    except (ValueError, RecursionError):
        raise ValueError(
            f"{file} cannot be read: it holds a date that does not exist, or is nested too deeply"
        ) from None


class _KeyFault(Exception):
    """A key that is given twice, or is no text; the text says on which line."""


class _Loader(yaml.SafeLoader):
    """A SafeLoader that looks at keys before anything is made of them, merged ones (`<<`) included."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag == _MERGE:
                continue
            if key.tag == _BOOLEAN:
                raise _KeyFault(f"line {line}: YAML reads the key {key.value} as true or false; put it in quotes")
            if key.tag != _TEXT:
                raise _KeyFault(f"line {line}: a key must be a text; put it in quotes")
            if key.value in first:
                raise _KeyFault(f"line {line}: the key {key.value} is given twice, first on line {first[key.value]}")
            first[key.value] = line
        return node


def _written_integer(loader: _Loader, node: yaml.ScalarNode) -> WrittenInteger:
    return WrittenInteger(loader.construct_yaml_int(node), node.value)


_Loader.add_constructor(_INTEGER, _written_integer)
