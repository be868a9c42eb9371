"""Time zones by their names: the offset from UTC at a moment, and the moment of a local time.

Names are read as Node reads them, so that a job scheduler means the same to every BullMQ program.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

_FIXED = re.compile(r"utc([+-])([0-9]{1,2})(?::([0-9]{2}))?\Z")
# The short names that Node's ICU knows besides the IANA database.
_SHORT = {
    "act": "Australia/Darwin", "aet": "Australia/Sydney", "agt": "America/Argentina/Buenos_Aires",
    "art": "Africa/Cairo", "ast": "America/Anchorage", "bet": "America/Sao_Paulo", "bst": "Asia/Dhaka",
    "cat": "Africa/Harare", "cnt": "America/St_Johns", "cst": "America/Chicago", "ctt": "Asia/Shanghai",
    "eat": "Africa/Addis_Ababa", "ect": "Europe/Paris", "iet": "America/Indiana/Indianapolis", "ist": "Asia/Kolkata",
    "jst": "Asia/Tokyo", "mit": "Pacific/Apia", "net": "Asia/Yerevan", "nst": "Pacific/Auckland",
    "plt": "Asia/Karachi", "pnt": "America/Phoenix", "prt": "America/Puerto_Rico", "pst": "America/Los_Angeles",
    "sst": "Pacific/Guadalcanal", "vst": "Asia/Ho_Chi_Minh",
}  # fmt: skip
# Files that stand among the zones and are none.
_NO_ZONES = frozenset({"factory", "localtime", "posixrules"})


class Zone:
    """A time zone, or a fixed offset from UTC. Everything is in whole seconds; moments are before the year 9999."""

    __slots__ = ("_fixed_s", "_rules")

    def __init__(self, rules: tzinfo | None, fixed_s: int = 0) -> None:
        self._rules = rules
        self._fixed_s = fixed_s

    def offset(self, utc_s: int) -> int:
        """Return how far the zone's clocks are ahead of UTC at a moment."""
        if self._rules is None:
            return self._fixed_s
        ahead = datetime.fromtimestamp(utc_s, self._rules).utcoffset()
        return 0 if ahead is None else round(ahead.total_seconds())

    def moment(self, local_s: int, near: int) -> int:
        """Return the moment at which the zone's clocks show `local_s`, the seconds since 1970 read off them.

        Where they show it twice, the one with the offset `near` is meant. A time that they skip is read with the offset
        before the change, which makes it as much later as the clocks skip.
        """
        guess = local_s - near
        found = self.offset(guess)
        if found == near:
            return guess
        guess = local_s - found
        again = self.offset(guess)
        return guess if again == found else local_s - min(found, again)


def read_zone(name: str) -> Zone:
    """Read a zone's name: `Europe/Berlin` in any case, `UTC`, `GMT`, or an offset such as `UTC+3` or `UTC-9:30`.

    Raises:
        ValueError: there is no such zone.
    """
    lower = name.lower() if name.isascii() else name
    if lower in ("utc", "gmt"):
        return Zone(None)
    if fixed := _FIXED.match(lower):
        sign, hours, minutes = fixed.groups()
        ahead_s = int(hours) * 3600 + int(minutes or 0) * 60
        return Zone(None, -ahead_s if sign == "-" else ahead_s)
    known = _by_lower_case().get(lower)
    if known is None:
        raise ValueError(f"Unknown time zone {name[:100]}")
    return Zone(ZoneInfo(known))


def utc() -> Zone:
    """Return UTC."""
    return Zone(UTC)


@cache
def _by_lower_case() -> dict[str, str]:
    named = {name.lower(): name for name in available_timezones()}
    return {lower: name for lower, name in (_SHORT | named).items() if lower not in _NO_ZONES}
