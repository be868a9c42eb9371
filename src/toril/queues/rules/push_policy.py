"""The `policy` of a registered worker: which answers are final, how long to wait, how to sign.

It is an object in the worker's document that BullMQ Proxy instances ignore. Its error texts never repeat a value,
because it holds secrets.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from toril.bullmq.rules.json_values import whole
from toril.core.errors import InvalidRequest
from toril.core.http.signing import MAX_SECRETS, Secret, read_secret
from toril.core.http.statuses import CLASSES, first_beaten

DEFAULT_MAX_RETRY_AFTER_MS = 3_600_000
_FIELDS = ("retry_on", "fail_on", "retry_after", "max_retry_after_ms", "signing")

Statuses = frozenset[int]


class PushPolicy(Struct, frozen=True):
    """How a worker's answers are judged, and the secrets that its requests are signed with.

    Without `retry_on` every status is retried while attempts are left. `retry_after` honours the header of that
    name, up to `max_retry_after_ms`.
    """

    retry_on: Statuses | None = None
    fail_on: Statuses = frozenset()
    retry_after: bool = False
    max_retry_after_ms: int = DEFAULT_MAX_RETRY_AFTER_MS
    secrets: tuple[Secret, ...] = ()

    def is_final(self, status: int) -> bool:
        """Return True if an answer with this status, which is not 2xx, fails the job at once."""
        return status in self.fail_on or (self.retry_on is not None and status not in self.retry_on)


def read_policy(parsed: Any) -> PushPolicy:
    """Read the `policy` of a worker's document.

    Raises:
        InvalidRequest: saying which field is wrong, and how.
    """
    _object(parsed, "policy", _FIELDS)
    retry_on, fail_on = _statuses(parsed, "retry_on"), _statuses(parsed, "fail_on")
    retry_after = parsed.get("retry_after")
    if retry_after is not None and not isinstance(retry_after, bool):
        raise _fault("policy.retry_after", "must be true or false")
    limit_ms = parsed.get("max_retry_after_ms")
    max_retry_after_ms = DEFAULT_MAX_RETRY_AFTER_MS if limit_ms is None else whole(limit_ms, 1)
    if max_retry_after_ms is None:
        raise _fault("policy.max_retry_after_ms", "must be a whole number of at least 1")
    return PushPolicy(retry_on, fail_on or frozenset(), bool(retry_after), max_retry_after_ms, _secrets(parsed))


def check_effect(parsed: Any) -> None:
    """Raise `InvalidRequest` if another field makes a part of a valid policy have no effect.

    Not part of `read_policy`: a worker that is stored already goes on running.
    """
    if parsed is None:
        return
    beaten = first_beaten(parsed.get("retry_on"), parsed.get("fail_on"))
    if beaten is not None:
        place, item = beaten
        raise _fault(f"policy.retry_on[{place}]", f"policy.fail_on has {item} too, and wins")
    if parsed.get("max_retry_after_ms") is not None and not parsed.get("retry_after"):
        raise _fault("policy.max_retry_after_ms", "it has no effect unless policy.retry_after is true")


def _statuses(parsed: dict[str, Any], field: str) -> Statuses | None:
    value = parsed.get(field)
    if value is None:
        return None
    path = f"policy.{field}"
    if not isinstance(value, list):
        raise _fault(path, "must be a list")
    found: set[int] = set()
    for position, item in enumerate(value):
        if isinstance(item, str) and item in CLASSES:
            found.update(CLASSES[item])
            continue
        status = whole(item, 300, 599)
        if status is None:
            raise _fault(f"{path}[{position}]", 'must be a status from 300 to 599, or "3xx", "4xx" or "5xx"')
        found.add(status)
    return frozenset(found)


def _secrets(parsed: dict[str, Any]) -> tuple[Secret, ...]:
    signing = parsed.get("signing")
    if signing is None:
        return ()
    _object(signing, "policy.signing", ("secrets",))
    listed, path = signing.get("secrets"), "policy.signing.secrets"
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_SECRETS:
        raise _fault(path, f"must be a list of 1 to {MAX_SECRETS} secrets")
    secrets = []
    for position, item in enumerate(listed):
        try:
            secrets.append(read_secret(item))
        except ValueError as exc:
            # Not chained, because the text of the decoder may hold the secret.
            raise _fault(f"{path}[{position}]", str(exc)) from None
    if len(set(secrets)) < len(secrets):
        raise _fault(path, "must differ from each other")
    return tuple(secrets)


def _object(parsed: Any, path: str, fields: tuple[str, ...]) -> None:
    if not isinstance(parsed, dict):
        raise _fault(path, "must be an object")
    for field in parsed:
        if field not in fields:
            raise InvalidRequest(f"Invalid field: {path}.{field}", field=f"{path}.{field}")


def _fault(path: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid {path}, {what}", field=path)
