"""Which ledgers the instances on one Redis have, by target: one hash, one small script, and Redis' clock.

Instances on one Redis must keep the deliveries to a target in one ledger. This is how they find out that they do not.
"""

from __future__ import annotations

from collections.abc import Sequence

from toril.delivery.ports import Sighting
from toril.redis.links import Links
from toril.redis.script import Script

LIVE_S = 30.0
_REMEMBERED_S = 8 * 24 * 3600.0

# A field of the hash is a ledger's id, a colon and a target; its value, since when instances with that ledger have
# been there without a gap and when one was last seen (microseconds since the epoch, a space between). Or it is "place",
# a space and the name of a place; its value, the ledger that is there and when it was last seen.
# There is a gap after `live` unseen; after `remembered` a field is removed (both in microseconds). `place` is the name
# of the ledger's place, "" for none; `starting` is "1" if the instance starts: the ledger that was in its place before
# is removed unless it was seen in another place.
_NOTE = Script(
    "noteLedger",
    """
local own, live, remembered, place = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local since, found = {}, {}
for i = 6, #ARGV do
  local field = own .. ':' .. ARGV[i]
  local began, seen = string.match(redis.call('HGET', KEYS[1], field) or '', '^(%d+) (%d+)$')
  since[ARGV[i]] = seen and now - seen <= live and tonumber(began) or now
  redis.call('HSET', KEYS[1], field, string.format('%.0f %.0f', since[ARGV[i]], now))
end
local all = redis.call('HGETALL', KEYS[1])

local former, elsewhere
for i = 1, #all, 2 do
  local name = string.match(all[i], '^place (.+)$')
  local ledger, seen = string.match(all[i + 1], '^(%S+) (%d+)$')
  if name and (not seen or now - seen > remembered) then
    redis.call('HDEL', KEYS[1], all[i])
  elseif name == place and ARGV[5] == '1' and ledger ~= own then
    former = ledger
  end
end
for i = 1, #all, 2 do
  local name = string.match(all[i], '^place (.+)$')
  local ledger, seen = string.match(all[i + 1], '^(%S+) (%d+)$')
  if former and name and name ~= place and ledger == former and now - seen <= live then elsewhere = true end
end
if place ~= '' then redis.call('HSET', KEYS[1], 'place ' .. place, string.format('%s %.0f', own, now)) end

for i = 1, #all, 2 do
  local ledger, target = string.match(all[i], '^([^:]*):(.*)$')
  local began, seen = string.match(all[i + 1], '^(%d+) (%d+)$')
  if string.match(all[i], '^place ') then
    -- looked at above
  elseif not seen or not ledger or now - seen > remembered or (ledger == former and not elsewhere) then
    redis.call('HDEL', KEYS[1], all[i])
  elseif since[target] and ledger ~= own then
    local ours, theirs = since[target], tonumber(began)
    local first = theirs < ours or (theirs == ours and ledger < own)
    found[#found + 1] = {target, ledger, now - seen, now - seen <= live and 1 or 0, first and 1 or 0}
  end
end
redis.call('PEXPIRE', KEYS[1], math.ceil(remembered / 1000))
return found
""",
    keys="ledgers",
    arguments="ledger_id live remembered place starting targets*",
    returns="for each other ledger of these targets: target, ledger's id, how long ago it was seen, 1 if there is no "
    "gap since, 1 if it was there first",
)


class RedisLedgerSightings:
    """`LedgerSightings` in Redis."""

    def __init__(self, links: Links, prefix: str) -> None:
        self._links = links
        self._key = f"{prefix}:toril:ledgers"

    async def note(
        self, ledger_id: str, targets: Sequence[str], *, place: str = "", starting: bool = False
    ) -> list[Sighting]:
        """As `LedgerSightings.note`, in one round trip."""
        times = (_us(LIVE_S), _us(_REMEMBERED_S))
        arguments = (ledger_id, *times, place, "1" if starting else "", *targets)
        found = await _NOTE.call(self._links, [self._key], *arguments)
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
