"""The Redis commands that write a delivery. A script carries each list of them out in one step."""

from __future__ import annotations

from collections.abc import Sequence

from toril.delivery.ledger.redis_keys import LedgerKeys
from toril.delivery.rules.decisions import Decision
from toril.delivery.rules.delivery import AttemptRecord, Delivery, NewDelivery
from toril.delivery.rules.lifecycle import Status, Transition
from toril.delivery.rules.row_codec import pack

Word = str | bytes | int | float
Words = Sequence[Word]


def accepting(keys: LedgerKeys, new: NewDelivery, delivery: Delivery, first: Transition) -> list[Words]:
    """Return the commands that write a delivery as it begins."""
    fields: Words = ["s", pack(delivery), "v", delivery.seq, "e", pack(new.envelope), "f", new.fingerprint]
    return [
        ["HSET", keys.row(new.job_id), *fields],
        ["RPUSH", keys.transitions(new.job_id), pack(first)],
        ["SADD", keys.targets, new.target],
        *(_words("ZADD", keys.ids(target), 0, new.job_id) for target in (None, new.target)),
        *(_words("ZADD", key, repr(score), new.job_id) for key, score in keys.memberships(delivery)),
    ]


def changing(keys: LedgerKeys, now: Delivery, decided: Decision) -> list[Words]:
    """Return the commands that write what was decided on a delivery."""
    after = decided.delivery
    fields: list[Word] = ["s", pack(after), "v", after.seq]
    if decided.response is not None:
        fields += ["r", pack(decided.response)]
    memberships = dict(keys.memberships(after))
    return [
        ["HSET", keys.row(now.job_id), *fields],
        ["RPUSH", keys.transitions(now.job_id), *(pack(step) for step in decided.transitions)],
        *(_attempt_words(keys.attempts(now.job_id), one, now) for one in decided.attempts),
        *(_words("ZREM", key, now.job_id) for key, _ in keys.memberships(now) if key not in memberships),
        *(_words("ZADD", key, repr(score), now.job_id) for key, score in memberships.items()),
    ]


def forgetting(keys: LedgerKeys, one: Delivery) -> list[Words]:
    """Return the commands that remove a delivery with all that belongs to it."""
    job_id = one.job_id
    commands: list[Words] = [["DEL", keys.row(job_id), keys.transitions(job_id), keys.attempts(job_id)]]
    if one.idempotency_key is not None:
        commands.append(["DEL", keys.idempotency(one.target, one.idempotency_key)])
    commands += [["ZREM", key, job_id] for key, _ in keys.memberships(one)]
    commands += [["ZREM", keys.ids(target), job_id] for target in (None, one.target)]
    return commands


def keys_of(commands: Sequence[Words]) -> list[str]:
    """Return the keys of commands, each once: of DEL all that follows it, of all others the next word."""
    named = (command[1:] if command[0] == "DEL" else command[1:2] for command in commands)
    return list(dict.fromkeys(str(key) for keys in named for key in keys))


def flat(commands: Sequence[Words]) -> Words:
    """Return the words of commands in a row, each command behind its number of words."""
    return [word for command in commands for word in (len(command), *command)]


def _attempt_words(key: str, one: AttemptRecord, now: Delivery) -> Words:
    """Return the command that records an attempt at its place in the list: attempt 1 is at 0."""
    recorded = now.attempts_begun - (now.status is Status.DISPATCHING)
    return ["LSET", key, one.number - 1, pack(one)] if one.number <= recorded else ["RPUSH", key, pack(one)]


def _words(*words: Word) -> Words:
    return words
