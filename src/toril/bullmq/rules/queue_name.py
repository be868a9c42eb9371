"""The rules for queue names, in REST paths, workers and configuration alike."""

from __future__ import annotations

import re

from msgspec import Struct

from toril.core.errors import InvalidRequest

# Redis Cluster hashes this part instead of the whole key: the first {...} that is not empty.
_HASH_TAG = re.compile(r"[^{]*\{[^}]+\}")
_PLAIN = re.compile(r"[A-Za-z0-9_.{}-]+\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class NameRules(Struct, frozen=True):
    """Length limits in characters; control characters and `:` are never allowed.

    BullMQ builds its keys as `prefix:queue:part`, so with a `:` one queue could write another one's keys. On a Redis
    Cluster all keys of a queue have to be on one node: `cluster_prefix` is set, and it or the name has a hash tag.
    """

    min_length: int = 3
    max_length: int = 100
    cluster_prefix: str | None = None

    def check(self, name: str) -> None:
        """Refuse a name that breaks these rules.

        Raises:
            InvalidRequest: with BullMQ Proxy's text for the length, or toril's for characters.
        """
        if self.min_length <= len(name) <= self.max_length and self.cluster_prefix is None and _PLAIN.match(name):
            return
        if len(name) < self.min_length:
            raise InvalidRequest(f"queue name must be at least {self.min_length} characters long", field="queue")
        if len(name) > self.max_length:
            raise InvalidRequest(f"queue name must be at most {self.max_length} characters long", field="queue")
        if ":" in name:
            raise InvalidRequest("queue name must not contain :", field="queue")
        if _CONTROL.search(name):
            raise InvalidRequest("queue name must not contain control characters", field="queue")
        if self.cluster_prefix is not None and not _HASH_TAG.match(f"{self.cluster_prefix}:{name}"):
            raise InvalidRequest(
                "queue name must hold a hash tag, such as {orders}: this is a Redis Cluster and the prefix has none",
                field="queue",
            )
        try:
            name.encode()
        except UnicodeEncodeError as exc:
            raise InvalidRequest("queue name must be valid Unicode", field="queue") from exc
