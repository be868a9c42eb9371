"""The group of a delivery in its target's queue: the one that its envelope names, else the value of a label."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import UNSET

from toril.bullmq.rules.groups import GroupOption, check_group, check_group_id
from toril.core.errors import InvalidEnvelope, InvalidRequest


def checked_group(given: GroupOption) -> GroupOption:
    """Return the group of an envelope with its id as text and its defaults left out, so that equal ones are the same.

    Raises:
        InvalidEnvelope: its id or its priority is none.
    """
    try:
        check_group(given)
    except InvalidRequest as exc:
        raise InvalidEnvelope(exc.message, field="group") from exc
    return GroupOption(given.name, given.order or UNSET)


def group_of(named: GroupOption | None, labels: Mapping[str, str], label: str | None) -> str | None:
    """Return the id of a delivery's group: the named one, else the one of this label; None where there is neither."""
    return group_in(labels, label) if named is None else named.name


def group_in(labels: Mapping[str, str], label: str | None) -> str | None:
    """Return the group that this label names; None without it, or where its value is no id of a group."""
    value = "" if label is None else labels.get(label, "")
    if not value:
        return None
    try:
        check_group_id(value)
    except InvalidRequest:
        return None
    return value


def check_group_in(labels: Mapping[str, str], label: str | None) -> None:
    """Refuse labels of which this one is there and names no group that can be."""
    value = "" if label is None else labels.get(label, "")
    if not value:
        return
    try:
        check_group_id(value)
    except InvalidRequest as exc:
        raise InvalidEnvelope(
            f"labels.{label}: {exc.message} (it is the group of the delivery)", field="labels"
        ) from exc
