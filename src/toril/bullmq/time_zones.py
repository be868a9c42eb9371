"""Reads time zones by their names from the IANA database on disk.

Names are read as Node reads them, so that a job scheduler means the same to every BullMQ program.
"""

from __future__ import annotations

import re
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from toril.bullmq.rules.zones import Zone

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
# Files among the zones that are not zones.
_NO_ZONES = frozenset({"factory", "localtime", "posixrules"})


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


@cache
def _by_lower_case() -> dict[str, str]:
    named = {name.lower(): name for name in available_timezones()}
    return {lower: name for lower, name in (_SHORT | named).items() if lower not in _NO_ZONES}
