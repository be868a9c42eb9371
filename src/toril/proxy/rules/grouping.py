"""The group of a request in its upstream's queue: by a header, by the client's address, or by who sends it.

It is read from the headers that the upstream gets, so a request that is replayed is in the same group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from toril.bullmq.rules.groups import check_group_id
from toril.core.errors import InvalidRequest
from toril.core.http.headers import HOP_BY_HOP, Header, is_header_name

SECRET = frozenset({b"authorization", b"cookie"})
"""Headers whose values must not be seen, as ids of groups are."""


class GroupBy(Struct, frozen=True):
    """How requests are put into groups: by the value of this `header`, or of the one that tells the `kind`."""

    kind: Literal["header", "client_ip", "owner"]
    header: bytes

    def group(self, headers: Sequence[Header]) -> str | None:
        """Return the group of a request with these headers; None without a value. Of several values the first counts.

        Raises:
            InvalidRequest: the value is no id of a group.
        """
        if self.kind == "owner":
            return owner_of(headers) if any(name == self.header for name, _ in headers) else None
        value = next((value for name, value in headers if name == self.header), b"")
        if not value:
            return None
        try:
            group = value.decode()
        except UnicodeDecodeError:
            group = value.decode("latin-1")
        try:
            check_group_id(group)
        except InvalidRequest as exc:
            shown = self.header.decode()
            raise InvalidRequest(f"{shown}: {exc.message} (it is the group of the request)", field=shown) from exc
        return group


def read_group_by(text: str) -> GroupBy:
    """Read `header:x-tenant`, `client_ip` or `owner`.

    Raises:
        ValueError: says what is wrong.
    """
    if text == "client_ip":
        return GroupBy("client_ip", b"x-real-ip")
    if text == "owner":
        return GroupBy("owner", b"authorization")
    kind, _, name = text.partition(":")
    header = name.strip().lower().encode()
    if kind != "header" or not is_header_name(header):
        raise ValueError(f"{text!r} is none of header:NAME, client_ip, owner")
    if header in SECRET:
        raise ValueError(f"{text!r} would show secrets as names of groups; owner tells callers apart without that")
    if header in HOP_BY_HOP or header == b"host":
        raise ValueError(f"{text!r} is no header that reaches the upstream")
    return GroupBy("header", header)


def owner_of(headers: Sequence[Header]) -> str:
    """Return a value that tells callers apart by their `Authorization`, without revealing it."""
    value = b"\n".join(value for name, value in headers if name == b"authorization")
    return hashlib.sha256(b"toril owner\n" + value).hexdigest()[:32]
