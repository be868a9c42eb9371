"""The group of a delivery in its target's queue: the value of a label."""

from __future__ import annotations

from collections.abc import Mapping

from toril.bullmq.rules.groups import check_group_id
from toril.core.errors import InvalidEnvelope, InvalidRequest


def group_in(labels: Mapping[str, str], label: str | None) -> str | None:
    """Return the group that this label names; None without it, or where its value is no id of a group."""
    value = "" if label is None else labels.get(label, "")
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
