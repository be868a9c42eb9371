"""Entries that cannot be read are left out, and counted in the log."""

import msgspec
from structlog.testing import capture_logs

from toril.redis.stored_entries import readable

_decode = msgspec.json.Decoder(list[int]).decode


def test_what_can_be_read_stays_in_its_order() -> None:
    with capture_logs() as logs:
        assert readable("list", [b"[2]", b"[1]"], _decode) == [[2], [1]]
    assert logs == []


def test_what_cannot_be_read_is_left_out_and_counted() -> None:
    with capture_logs() as logs:
        assert readable("list", [b"[2]", b"\xff", b'["a"]', b"[" * 5000, b"[1]"], _decode) == [[2], [1]]
    (said,) = logs
    assert (said["event"], said["key"], said["entries"]) == ("redis.entries_unreadable", "list", 3)
