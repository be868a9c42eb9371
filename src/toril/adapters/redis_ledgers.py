"""Which ledgers the instances on one Redis have, by target: one hash, one small script, and Redis' clock.

Instances on one Redis must keep the deliveries to a target in one ledger. This is how they find out that they do not.
"""

from __future__ import annotations

from collections.abc import Sequence

from toril.core.ports.ledger import Sighting
from toril.core.ports.shared import Command

LIVE_S = 30.0
_REMEMBERED_S = 8 * 24 * 3600.0

# KEYS[1] the hash: a field is a ledger's id, a colon and a target; its value, since when instances with that ledger
#         have been there without a gap and when one was last seen (microseconds since the epoch, a space between).
# ARGV[1] the ledger's id, "" to look only; ARGV[2] after how long unseen there is a gap, ARGV[3] after how long a field
#         is removed (microseconds); then targets.
# Returns for each other ledger of these targets: target, ledger's id, how long ago it was seen, 1 if there is no gap
# since, 1 if it was there first.
_NOTE = """
local own, live, remembered = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local since, found = {}, {}
for place = 4, #ARGV do
  since[ARGV[place]] = now
  if own ~= '' then
    local field = own .. ':' .. ARGV[place]
    local began, seen = string.match(redis.call('HGET', KEYS[1], field) or '', '^(%d+) (%d+)$')
    if seen and now - seen <= live then since[ARGV[place]] = tonumber(began) end
    redis.call('HSET', KEYS[1], field, string.format('%.0f %.0f', since[ARGV[place]], now))
  end
end
local all = redis.call('HGETALL', KEYS[1])
for place = 1, #all, 2 do
  local ledger, target = string.match(all[place], '^([^:]*):(.*)$')
  local began, seen = string.match(all[place + 1], '^(%d+) (%d+)$')
  if not seen or not ledger or now - seen > remembered then
    redis.call('HDEL', KEYS[1], all[place])
  elseif since[target] and ledger ~= own then
    local ours, theirs = since[target], tonumber(began)
    local first = theirs < ours or (theirs == ours and ledger < own)
    found[#found + 1] = {target, ledger, now - seen, now - seen <= live and 1 or 0, first and 1 or 0}
  end
end
redis.call('PEXPIRE', KEYS[1], math.ceil(remembered / 1000))
return found
"""


class RedisLedgers:
    """`LedgerSightings` over a client."""

    def __init__(self, command: Command, prefix: str) -> None:
        self._command = command
        self._key = f"{prefix}:toril:ledgers"

    async def note(self, ledger_id: str, targets: Sequence[str]) -> list[Sighting]:
        """As `LedgerSightings.note`, in one round trip."""
        found = await self._command("EVAL", _NOTE, 1, self._key, ledger_id, _us(LIVE_S), _us(_REMEMBERED_S), *targets)
        return [
            Sighting(
                target=target.decode(),
                ledger_id=other.decode(errors="replace"),
                seen_s=ago_us / 1e6,
                live=bool(live),
                senior=bool(live and first),
            )
            for target, other, ago_us, live, first in found
        ]


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
