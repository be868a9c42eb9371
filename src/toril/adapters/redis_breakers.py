"""Circuit breakers in Redis, so that all workers of a fleet see the same: one hash per target, one script per decision.

The script says in Lua what `toril.core.breaker` says in Python; a conformance suite compares the two. Redis' clock
counts, so those of the instances need not agree.
"""

from __future__ import annotations

import hashlib
from typing import Any

from toril.core.breaker import HALF_OPEN_PAUSE_S, Admission, Breaker, BreakerState, Go, Probe, Wait
from toril.core.errors import StoreRefused
from toril.core.ports.shared import Command, Now
from toril.core.target import BreakerPolicy

# KEYS[1] the hash: state, opened (microseconds since the epoch), failures (their times), probes (id and until when, in
#         turn), passed; lists have commas between their items. A breaker that was never opened and has no failures is
#         no key at all.
# ARGV[1] admit, failed, passed, left or read
# ARGV[2] failures, ARGV[3] window, ARGV[4] open_for, ARGV[5] half_open_probes of the policy; times in microseconds
# ARGV[6] the probe's id, "" for none; ARGV[7] for how long it counts, ARGV[8] the pause of who finds no place
# ARGV[9] the time; "" is Redis' own
# Returns {1 to go, 2 as a probe, 3 as the last one, 0 to wait; how long to wait; the hash's values as they are then}.
_DECIDE = """
local key, event, probe = KEYS[1], ARGV[1], ARGV[6]
local most, window, open_for, places = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local clock = redis.call('TIME')
local now = tonumber(ARGV[9]) or clock[1] * 1000000 + clock[2]

local function items(text)
  local found = {}
  for item in string.gmatch(text or '', '[^,]+') do found[#found + 1] = item end
  return found
end
local function whole(number) return string.format('%.0f', number) end

local kept = redis.call('HMGET', key, 'state', 'opened', 'failures', 'probes', 'passed')
local state, opened, passed = kept[1] or 'closed', tonumber(kept[2] or now), tonumber(kept[5] or 0)
local failures, probes = items(kept[3]), items(kept[4])
local going, wait = 1, 0

local function without(id, alive)
  local found, had = {}, false
  for i = 1, #probes, 2 do
    if probes[i] == id then had = true
    elseif not alive or tonumber(probes[i + 1]) > now then
      found[#found + 1] = probes[i]
      found[#found + 1] = probes[i + 1]
    end
  end
  return found, had
end
local function answer()
  return {going, whole(wait), state, whole(opened), table.concat(failures, ','), table.concat(probes, ','), passed,
    whole(now)}
end
local function save()
  if state == 'closed' and #failures == 0 then
    redis.call('DEL', key)
    return
  end
  redis.call('HSET', key, 'state', state, 'opened', whole(opened), 'failures', table.concat(failures, ','),
    'probes', table.concat(probes, ','), 'passed', passed)
  -- An open breaker that nobody asks for a day belongs to a target that is no more.
  redis.call('PEXPIRE', key, math.ceil((state == 'closed' and window or open_for + 86400000000) / 1000))
end

if event == 'admit' and state ~= 'closed' then
  if state == 'open' and opened + open_for > now then
    going, wait = 0, opened + open_for - now
    return answer()
  elseif state == 'open' then
    state, probes, passed = 'half_open', {}, 0
  else
    probes = without('', true)
  end
  local free = places - passed - #probes / 2
  if free <= 0 then
    going, wait = 0, tonumber(ARGV[8])
  else
    going = free == 1 and 3 or 2
    probes[#probes + 1] = probe
    probes[#probes + 1] = whole(now + tonumber(ARGV[7]))
  end
  save()
elseif event == 'failed' and state == 'closed' then
  local recent = {}
  for _, at in ipairs(failures) do
    if tonumber(at) > now - window then recent[#recent + 1] = at end
  end
  recent[#recent + 1] = whole(now)
  while #recent > most do table.remove(recent, 1) end
  failures = recent
  if #recent >= most then state, opened, probes, passed = 'open', now, {}, 0 end
  save()
elseif event ~= 'read' and state == 'half_open' then
  local others, had = without(probe, false)
  if had and event == 'failed' then
    state, opened, probes, passed = 'open', now, {}, 0
    save()
  elseif had and event == 'passed' and passed + 1 >= places then
    state, failures, probes, passed = 'closed', {}, {}, 0
    save()
  elseif had and (event == 'passed' or event == 'left') then
    probes = others
    if event == 'passed' then passed = passed + 1 end
    save()
  end
end
return answer()
"""
_SHA = hashlib.sha1(_DECIDE.encode()).hexdigest()  # noqa: S324 - how Redis names scripts
_GO = {1: Go(), 2: Go(probe=True), 3: Go(probe=True, last=True)}


class RedisBreakers:
    """`Breakers` over a client. A target's key is the only one of its call, so a cluster can have it anywhere.

    `now` is another clock than Redis' own, for tests.
    """

    def __init__(self, command: Command, prefix: str, now: Now | None = None) -> None:
        self._now = now
        self._command = command
        self._prefix = prefix

    async def admit(self, target: str, policy: BreakerPolicy, probe: str, probe_for_s: float) -> Admission:
        """Whether an attempt may be made now, in one round trip."""
        going, wait_us, *_ = await self._decide("admit", target, policy, probe, probe_for_s)
        return _GO[going] if going else Wait(int(wait_us) / 1e6)

    async def failed(self, target: str, policy: BreakerPolicy, probe: str | None) -> Breaker:
        """An attempt speaks against the target."""
        return _breaker(await self._decide("failed", target, policy, probe or ""))

    async def passed(self, target: str, policy: BreakerPolicy, probe: str) -> Breaker:
        """A probe speaks for the target."""
        return _breaker(await self._decide("passed", target, policy, probe))

    async def left(self, target: str, policy: BreakerPolicy, probe: str) -> None:
        """A probe says nothing."""
        await self._decide("left", target, policy, probe)

    async def read(self, target: str, policy: BreakerPolicy) -> tuple[Breaker, int]:
        """The breaker as it is, and how many failures count."""
        reply = await self._decide("read", target, policy, "")
        breaker = _breaker(reply)
        return breaker, breaker.recent(policy, int(reply[7]) / 1e6)

    async def _decide(
        self, event: str, target: str, policy: BreakerPolicy, probe: str, probe_for_s: float = 0.0
    ) -> list[Any]:
        call = (
            1,
            f"toril:breaker:{self._prefix}:{target}",
            event,
            policy.failures,
            _us(policy.window_s),
            _us(policy.open_for_s),
            policy.half_open_probes,
            probe,
            _us(probe_for_s),
            _us(HALF_OPEN_PAUSE_S),
            "" if self._now is None else _us(self._now()),
        )
        try:
            reply: list[Any] = await self._command("EVALSHA", _SHA, *call)
        except StoreRefused as exc:
            if not exc.message.startswith("NOSCRIPT"):
                raise
            reply = await self._command("EVAL", _DECIDE, *call)
        return reply


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _breaker(reply: list[Any]) -> Breaker:
    _, _, state, opened, failures, probes, passed, _ = reply
    is_closed = state == b"closed"
    pairs = probes.decode().split(",") if probes else []
    return Breaker(
        BreakerState(state.decode()),
        None if is_closed else int(opened) / 1e6,
        tuple(int(at_us) / 1e6 for at_us in failures.split(b",")) if failures else (),
        tuple(Probe(name, int(until) / 1e6) for name, until in zip(pairs[::2], pairs[1::2], strict=True)),
        int(passed),
    )
