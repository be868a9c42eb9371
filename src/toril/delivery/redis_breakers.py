"""Circuit breakers and holds in Redis, shared by all workers of a fleet: one hash per target, one script per decision.

The script does in Lua what `toril.delivery.rules.breaker` does in Python; a conformance suite compares the two. Redis'
clock counts, so the clocks of the instances need not agree.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from toril.core.ports import Now
from toril.delivery.rules.breaker import (
    HALF_OPEN_PAUSE_S,
    NO_SUCCESSES,
    SLICES,
    AttemptAllowed,
    AttemptBlocked,
    Breaker,
    BreakerDecision,
    BreakerState,
    FailedAttempt,
    Probe,
    Slice,
    Successes,
)
from toril.delivery.rules.target import BreakerPolicy
from toril.redis.links import Links
from toril.redis.script import Script

# The hash has the fields state, opened and held (microseconds since the epoch), row (times of failures), slices
# (number, attempts, failures, in turn), last (the delivery that failed last), counted (how many failures opened it),
# probes (id and until when, in turn), passed; lists have commas between their items. A breaker that knows nothing is no
# key at all.
# The event is admit, succeeded, failed, held, released, passed, left or read; times are in microseconds. `most` is the
# policy's `failures`, 0 where it has no breaker. `successes` are reported with any event, the last was `age` ago.
# `probe` is "" for none, and counts for `probe_for`; where no probe is free, the attempt waits for `pause`. `now` is ""
# for Redis' own time.
_DECIDE = Script(
    "decideBreaker",
    """
local key, event, probe, delivery = KEYS[1], ARGV[1], ARGV[8], ARGV[11]
local most, window, open_for, places = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local rate, least = tonumber(ARGV[6]), tonumber(ARGV[7])
local successes, age, hold = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local clock = redis.call('TIME')
local now = tonumber(ARGV[15]) or clock[1] * 1000000 + clock[2]

local function items(text)
  local found = {}
  for item in string.gmatch(text or '', '[^,]+') do found[#found + 1] = item end
  return found
end
local function whole(number) return string.format('%.0f', number) end

local kept = redis.call('HMGET', key, 'state', 'opened', 'row', 'slices', 'last', 'counted', 'probes', 'passed', 'held')
local state, opened, last, held = kept[1] or 'closed', tonumber(kept[2] or now), kept[5] or '', tonumber(kept[9] or 0)
local row, slices, probes = items(kept[3]), items(kept[4]), items(kept[7])
local failures, passed = tonumber(kept[6] or 0), tonumber(kept[8] or 0)
local going, wait, changed = 1, 0, false

local function without(id, alive)
  local found, had = {}, false
  for i = 1, #probes, 2 do
    local on_time = not alive or tonumber(probes[i + 1]) > now
    if probes[i] == id then
      had = on_time
    elseif on_time then
      found[#found + 1] = probes[i]
      found[#found + 1] = probes[i + 1]
    end
  end
  return found, had
end
local function in_window()
  local number, found = math.floor(now / math.max(1, math.floor(window / SLICES))), {}
  for i = 1, #slices, 3 do
    local at = tonumber(slices[i])
    if at > number - SLICES and at <= number then
      for j = i, i + 2 do found[#found + 1] = slices[j] end
    end
  end
  return number, found
end
local function count(attempts, failed)
  local number, found = in_window()
  local mine = #found + 1
  for i = 1, #found, 3 do
    if tonumber(found[i]) == number then mine = i end
  end
  found[mine] = whole(number)
  found[mine + 1] = whole((found[mine + 1] or 0) + attempts)
  found[mine + 2] = whole((found[mine + 2] or 0) + failed)
  slices, changed = found, true
end
local function takes_others()
  local _, found = in_window()
  for i = 1, #found, 3 do
    if tonumber(found[i + 1]) > tonumber(found[i + 2]) then return true end
  end
  return false
end
local function become(new)
  state, opened, probes, passed, changed = new, now, {}, 0, true
  row, slices, last = {}, {}, ''
end
local function fail()
  local others, had = without(probe, false)
  if state == 'half_open' and had then become('open') return end
  if state ~= 'closed' or delivery == last and takes_others() then return end
  row[#row + 1], last = whole(now), delivery
  count(1, 1)
  local attempts, failed = 0, 0
  for i = 1, #slices, 3 do attempts, failed = attempts + slices[i + 1], failed + slices[i + 2] end
  if #row >= most then
    become('open')
    failures = most
  elseif attempts >= least and failed >= rate * attempts then
    become('open')
    failures = failed
  end
end
local function admit()
  if held > now then going, wait = 0, held - now return end
  if most == 0 or state == 'closed' then return end
  if state == 'open' and opened + open_for > now then going, wait = 0, opened + open_for - now return end
  if state == 'open' then state, probes, passed = 'half_open', {}, 0 end
  local has_place
  probes, has_place = without(probe, true)
  local free = places - passed - #probes / 2
  if free <= 0 and not has_place then
    going, wait = 0, tonumber(ARGV[10])
  else
    going = free <= 1 and 3 or 2
    probes[#probes + 1] = probe
    probes[#probes + 1] = whole(now + tonumber(ARGV[9]))
  end
  changed = true
end

if successes > 0 and state == 'closed' and most > 0 then
  local after = {}
  for _, at in ipairs(row) do
    if tonumber(at) > now - age then after[#after + 1] = at end
  end
  row = after
  count(successes, 0)
end
if hold > 0 and now + hold > held then held, changed = now + hold, true end
if event == 'admit' then
  admit()
elseif event == 'failed' and most > 0 then
  fail()
elseif event == 'released' and held > 0 then
  going, held, changed = held > now and 2 or 1, 0, true
elseif event == 'passed' and state == 'half_open' then
  local others, had = without(probe, false)
  if had and passed + 1 >= places then
    become('closed')
    failures = 0
  elseif had then
    probes, passed, changed = others, passed + 1, true
  end
elseif event == 'left' and state == 'half_open' then
  local others, had = without(probe, false)
  if had then probes, changed = others, true end
end

if changed and state == 'closed' and #row == 0 and #slices == 0 and last == '' and held == 0 then
  redis.call('DEL', key)
elseif changed then
  redis.call('HSET', key, 'state', state, 'opened', whole(opened), 'row', table.concat(row, ','),
    'slices', table.concat(slices, ','), 'last', last, 'counted', whole(failures), 'probes', table.concat(probes, ','),
    'passed', passed, 'held', whole(held))
  -- What is not asked for a day after it ends belongs to a target that was removed.
  redis.call('PEXPIRE', key, math.ceil((math.max(window, open_for, held - now) + 86400000000) / 1000))
end
return {going, whole(wait), state, whole(opened), table.concat(row, ','), table.concat(slices, ','), last,
  whole(failures), table.concat(probes, ','), passed, whole(held), whole(now)}
""".replace("SLICES", str(SLICES)),
    keys="breaker",
    arguments="event most window open_for half_open_probes failure_rate min_attempts probe probe_for pause delivery "
    "successes age hold now",
    returns="1 to go, 2 as a probe, 3 as the last one, 0 to wait; how long to wait; the values of the hash after that, "
    "and the time",
)


class _Event(Struct, frozen=True, kw_only=True):
    """What happened, as the script is told of it."""

    name: str
    probe: str = ""
    probe_for_s: float = 0.0
    delivery: str = ""
    successes: Successes = NO_SUCCESSES
    hold_s: float = 0.0


class RedisBreakers:
    """`Breakers` in Redis. A target's key is the only one of its call, so a cluster can have it anywhere.

    `now` is another clock than Redis' own, for tests.
    """

    def __init__(self, links: Links, prefix: str, now: Now | None = None) -> None:
        self._now = now
        self._links = links
        self._prefix = prefix

    async def admit(
        self,
        target: str,
        policy: BreakerPolicy | None,
        probe: str,
        probe_for_s: float,
        successes: Successes = NO_SUCCESSES,
    ) -> BreakerDecision:
        """Return whether an attempt may be made now, in one round trip."""
        event = _Event(name="admit", probe=probe, probe_for_s=probe_for_s, successes=successes)
        reply = await self._decide(target, policy, event)
        going, wait_us = reply[0], reply[1]
        if not going:
            return AttemptBlocked(int(wait_us) / 1e6)
        return AttemptAllowed(probe=going > 1, last=going == 3, row=len(_times(reply[4])))

    async def succeeded(self, target: str, policy: BreakerPolicy, successes: Successes) -> Breaker:
        """Record attempts that succeeded and are no probes."""
        return _breaker(await self._decide(target, policy, _Event(name="succeeded", successes=successes)))

    async def failed(
        self, target: str, policy: BreakerPolicy | None, failure: FailedAttempt, successes: Successes = NO_SUCCESSES
    ) -> Breaker:
        """Record an attempt that counts as a failure of the target."""
        event = _Event(
            name="failed",
            probe=failure.probe or "",
            delivery=failure.delivery,
            successes=successes,
            hold_s=failure.hold_s,
        )
        return _breaker(await self._decide(target, policy, event))

    async def hold(self, target: str, for_s: float) -> Breaker:
        """Let no attempt be made for so long."""
        return _breaker(await self._decide(target, None, _Event(name="held", hold_s=for_s)))

    async def release(self, target: str) -> bool:
        """End a hold; return whether there was one."""
        reply = await self._decide(target, None, _Event(name="released"))
        return bool(reply[0] == 2)

    async def passed(self, target: str, policy: BreakerPolicy, probe: str) -> Breaker:
        """Record a probe that succeeded."""
        return _breaker(await self._decide(target, policy, _Event(name="passed", probe=probe)))

    async def left(self, target: str, policy: BreakerPolicy, probe: str) -> None:
        """Record a probe without a result."""
        await self._decide(target, policy, _Event(name="left", probe=probe))

    async def read(self, target: str) -> Breaker:
        """Return the breaker."""
        return _breaker(await self._decide(target, None, _Event(name="read")))

    async def _decide(self, target: str, policy: BreakerPolicy | None, event: _Event) -> list[Any]:
        given = policy or _OFF
        reply: list[Any] = await _DECIDE.call(
            self._links,
            [f"toril:breaker:{self._prefix}:{target}"],
            event.name,
            0 if policy is None else policy.failures,
            _us(given.window_s),
            _us(given.open_for_s),
            given.half_open_probes,
            repr(given.failure_rate),
            given.min_attempts,
            event.probe,
            _us(event.probe_for_s),
            _us(HALF_OPEN_PAUSE_S),
            event.delivery,
            event.successes.count,
            _us(event.successes.age_s),
            _us(event.hold_s),
            "" if self._now is None else _us(self._now()),
        )
        return reply


_OFF = BreakerPolicy()


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _times(text: bytes) -> tuple[float, ...]:
    return tuple(int(at_us) / 1e6 for at_us in text.split(b",")) if text else ()


def _breaker(reply: list[Any]) -> Breaker:
    _, _, state, opened, row, slices, last, failures, probes, passed, held, _ = reply
    is_closed = state == b"closed"
    pairs = probes.decode().split(",") if probes else []
    counts = [int(part) for part in slices.split(b",")] if slices else []
    return Breaker(
        BreakerState(state.decode()),
        None if is_closed else int(opened) / 1e6,
        _times(row),
        tuple(map(Slice, counts[::3], counts[1::3], counts[2::3])),
        last.decode(),
        int(failures),
        tuple(Probe(name, int(until) / 1e6) for name, until in zip(pairs[::2], pairs[1::2], strict=True)),
        int(passed),
        int(held) / 1e6 if int(held) else None,
    )
