"""Seeded defects: small edits of toril's sources, each of which breaks a promise. They test the tests.

`tests/simulation/trials.py` makes each in a copy of the sources, and sees who finds it.
"""

from msgspec import Struct


class Defect(Struct, frozen=True):
    """One edit: in `path`, below `src/toril`, the text `before`, which stands there once, becomes `after`."""

    name: str
    breaks: str
    path: str
    before: str
    after: str


DEFECTS = (
    Defect(
        "loses-by-job",
        "a lost lease is given up together with a newer lease of the same job",
        "engine/consumer.py",
        "held for held in self.in_flight if held is lease",
        "held for held in self.in_flight if held.job_id == lease.job_id",
    ),
    Defect(
        "token-after-late-try",
        "the lock token of a settlement without an answer is used again",
        "engine/consumer.py",
        "elif slot.spent or lease.unanswered:",
        "elif slot.spent:",
    ),
    Defect(
        "token-after-handover",
        "a slot keeps the lock token that an endpoint goes on with",
        "engine/consumer.py",
        "elif slot.spent or lease.unanswered:",
        "elif lease.unanswered:",
    ),
    Defect(
        "settles-lost-lease",
        "a settlement is written although the lease was lost",
        "engine/settler.py",
        "        while not lease.lost:\n            asked_at = loop.time()\n            try:\n                found",
        "        while True:\n            asked_at = loop.time()\n            try:\n                found",
    ),
    Defect(
        "releases-lost-lease",
        "a job whose lease was lost is given back all the same",
        "engine/executor.py",
        "            if not lease.lost:\n                await self._give_back",
        "            if True:\n                await self._give_back",
    ),
    Defect(
        "renews-too-late",
        "locks are renewed after they have lapsed",
        "engine/lease_keeper.py",
        "now - lease.renewed_at > self._lock_s / 3",
        "now - lease.renewed_at > self._lock_s * 1.5",
    ),
    Defect(
        "renews-handed-over",
        "leases that an endpoint has taken over are renewed for it",
        "engine/lease_keeper.py",
        "and not (lease.handed_over or lease.lost)",
        "and not lease.lost",
    ),
    Defect(
        "gives-up-at-once",
        "a settlement is given up at the first error",
        "engine/settler.py",
        "if loop.time() - lease.renewed_at > self._patience_s:",
        "if loop.time() - lease.renewed_at >= 0:",
    ),
    Defect(
        "no-stalled-check",
        "jobs of a process that died are not put back",
        "engine/recoverer.py",
        "            stalled = await consumer.store.recover_stalled()\n",
        "            stalled: list[bytes] = []\n",
    ),
    Defect(
        "no-poll",
        "a job whose marker was lost is not looked for",
        "engine/recoverer.py",
        "        if free is not None:\n            free.look()",
        "        if free is None:\n            consumers[0].look()",
    ),
    Defect(
        "no-adoption",
        "a job that was leased by a call without an answer is not taken up",
        "engine/recoverer.py",
        "            consumer.adopt(lease)\n",
        "",
    ),
    Defect(
        "no-doubt",
        "a look without an answer leaves no doubt about its token",
        "engine/consumer.py",
        "            if isinstance(exc, (ConnectionLost, StoreTimeout)):\n                self._doubt(slot)",
        "            if False:\n                self._doubt(slot)",
    ),
    Defect(
        "adopted-wait-for-ever",
        "leases that were adopted while all slots had a job are never worked on",
        "engine/consumer.py",
        "        self._tokens.append(slot.token)\n        self._place_waiting()\n",
        "        self._tokens.append(slot.token)\n",
    ),
    Defect(
        "one-slot-too-many",
        "a consumer has a job more than its concurrency",
        "engine/consumer.py",
        "return len(self.slots) >= self._limit",
        "return len(self.slots) > self._limit",
    ),
    Defect(
        "one-attempt-too-many",
        "a job is tried once more than its attempts",
        "core/failed_attempt.py",
        "if lease.attempt >= lease.options.attempts:",
        "if lease.attempt > max(1, lease.options.attempts):",
    ),
    Defect(
        "leaves-without-abandoning",
        "a process that shuts down leaves its jobs to their locks",
        "engine/supervisor.py",
        "                        tasks.create_task(consumer.abandon())",
        "                        tasks.create_task(asyncio.sleep(0))",
    ),
    Defect(
        "leaves-after-locks",
        "a process that shuts down waits for settlements whose locks have lapsed",
        "engine/lease_keeper.py",
        "and (consumer.stopped or not lease.settling)",
        "and not lease.settling",
    ),
    Defect(
        "token-after-refused-release",
        "a slot keeps its token although the release of its job was refused",
        "engine/settler.py",
        "            except LeaseLost:\n                lease.unanswered = True\n",
        "            except LeaseLost:\n                raise\n",
    ),
    Defect(
        "forgets-slot-of-broken-job",
        "a slot whose job was given back never leaves",
        "engine/consumer.py",
        "        slot.lease = None\n        self.slots.discard(slot)",
        "        doubtful, slot.lease = slot.doubtful, None\n        self.slots -= set() if doubtful else {slot}",
    ),
    Defect(
        "ends-before-ledger",
        "a job is settled although the end of its attempt is not in the ledger",
        "delivery/delivery_executor.py",
        "                return (await self._journal.end(change, verdict),)\n",
        "                return (verdict,)\n",
    ),
    Defect(
        "settles-when-ledger-is-away",
        "a job is settled when its ledger cannot be reached",
        "delivery/delivery_executor.py",
        "                tries += 1\n                self._complain(complaint, lease, tries, exc)",
        "                tries += 1\n                if known:\n                    return (Complete(b'null'),)\n"
        "                self._complain(complaint, lease, tries, exc)",
    ),
    Defect(
        "attempts-unbegun",
        "a finished delivery can begin another attempt",
        "delivery/rules/lifecycle.py",
        "    Status.CANCELLED: frozenset(),\n}",
        "    Status.CANCELLED: frozenset({Status.DISPATCHING}),\n}",
    ),
    Defect(
        "loses-the-living",
        "an attempt whose worker holds the lock is recorded as lost",
        "delivery/ledger_recoverer.py",
        "                if one.job_id in held:\n                    continue\n",
        "",
    ),
    Defect(
        "loses-before-lease-ends",
        "any attempt under way may be recorded as lost",
        "delivery/rules/decisions.py",
        "    if now.lease_until_s is not None and now.lease_until_s > change.at_s:\n        return Refused(now)\n",
        "",
    ),
    Defect(
        "never-puts-back",
        "jobs that Redis has lost are not added again",
        "delivery/ledger_recoverer.py",
        "        if waiting:\n            now_s,",
        "        if not waiting:\n            now_s,",
    ),
    Defect(
        "never-loses",
        "attempts of workers that died stay under way",
        "delivery/ledger_recoverer.py",
        "done = Recovered(Counter() if patient else await self._lose(), expired, Counter())",
        "done = Recovered(Counter(), expired, Counter())",
    ),
    Defect(
        "compares-once",
        "the ledger is compared with the queues at the start only",
        "delivery/ledger_recoverer.py",
        "            if loop.time() - compared_at >= self._every_s:\n                self._due = True\n",
        "",
    ),
    Defect(
        "one-delivery-attempt-too-many",
        "a delivery is tried once more than its policy says",
        "delivery/rules/destination.py",
        "        if spent >= policy.max_attempts:\n",
        "        if spent > policy.max_attempts:\n",
    ),
    Defect(
        "late-end-refused",
        "the true end of an attempt that was recorded as lost is not recorded",
        "delivery/rules/decisions.py",
        "        return _ended_late(change, now)\n    if",
        "        return Refused(now)\n    if",
    ),
    Defect(
        "put-back-spends",
        "an attempt that was not made is counted",
        "delivery/rules/decisions.py",
        "now, status=to, seq=step.seq, updated_at_s=change.at_s, next_attempt_at_s=back.at_s, lease_until_s=None",
        "now, status=to, seq=step.seq, updated_at_s=change.at_s, next_attempt_at_s=back.at_s, lease_until_s=None,"
        " attempts_made=now.attempts_made + 1",
    ),
    Defect(
        "discards-accepted-bodies",
        "the body of an accepted delivery is deleted, as if it were a duplicate",
        "delivery/deliveries.py",
        "        if isinstance(result, Accepted):\n            await self._into_queue([result.delivery])\n",
        "        if isinstance(result, Accepted):\n            await self._discard(new)\n"
        "            await self._into_queue([result.delivery])\n",
    ),
    Defect(
        "janitor-takes-needed-bodies",
        "the bodies of unfinished deliveries count as orphans",
        "delivery/delivery_janitor.py",
        "for names in old.values() for name in names if name not in referred]",
        "for names in old.values() for name in names if referred is not None]",
    ),
    Defect(
        "job-before-row",
        "an envelope is acknowledged although its row could not be written",
        "delivery/deliveries.py",
        "        if isinstance(result, StoreError):\n            raise result\n        return await self._placed(new",
        "        if isinstance(result, StoreError):\n            result = Accepted(new.queued())\n"
        "        return await self._placed(new",
    ),
    Defect(
        "never-says-unqueued",
        "nothing looks soon for a job that could not be added",
        "delivery/deliveries.py",
        "jobs=len(some), error=exc.message)\n                self._unqueued()",
        "jobs=len(some), error=exc.message)",
    ),
    Defect(
        "releases-unrecorded",
        "an attempt that was given back stays under way in the ledger",
        "delivery/delivery_executor.py",
        "                await self._journal.end(change, _GONE)\n",
        "                pass\n",
    ),
    Defect(
        "stalled-too-often-runs",
        "a job that has stalled more often than allowed is attempted again",
        "engine/executor.py",
        "        if deferred:\n",
        "        if deferred and not fields:\n",
    ),
    Defect(
        "cancelled-goes-on",
        "the attempt of a cancelled job is not broken off",
        "engine/supervisor.py",
        "here = [consumer.cancel(job_id) for consumer in self.consumers() if consumer.queue == queue]",
        "here = [False for consumer in self.consumers() if consumer.queue == queue]",
    ),
    Defect(
        "late-answer-loses-pull",
        "a pull worker's settlement without an answer counts as written",
        "queues/pulls.py",
        "                if tried:\n                    raise\n                tried = True",
        "                break",
    ),
    Defect(
        "key-of-crashed-claim",
        "a key that a process claimed before it crashed is acknowledged without a job",
        "proxy/submissions.py",
        "        if not entry.settled:\n",
        "        if entry.job_id == job_id:\n",
    ),
    Defect(
        "key-is-free-when-answered",
        "a key whose job was answered gets another job",
        "proxy/submissions.py",
        'is_free = job.status == "failed"',
        "is_free = job.ended",
    ),
    Defect(
        "shares-answers-of-other-bodies",
        "requests that differ in their bodies share an answer",
        "proxy/rules/caching.py",
        'for pair in kept for part in pair), b"", body):',
        'for pair in kept for part in pair), b""):',
    ),
    Defect(
        "one-proxied-attempt-too-many",
        "a request is made once more than its upstream allows",
        "proxy/rules/destination.py",
        "if lease.attempt > self.upstream.max_retries:",
        "if lease.attempt > self.upstream.max_retries + 1:",
    ),
    Defect(
        "answer-without-its-body",
        "a request whose large answer could not be kept counts as answered",
        "proxy/upstream_calls.py",
        "            return CutOff(NOT_KEPT, told, answer.duration_s + perf_counter() - began)",
        "            return replace(answer, body=told.encode()[:0])",
    ),
    Defect(
        "cancel-is-only-said",
        "a cancel is answered although nothing was removed",
        "proxy/jobs.py",
        "        if job is None or not await self._jobs.cancel(job):\n",
        "        if job is None:\n",
    ),
    Defect(
        "next-job-not-made",
        "the next job of a scheduler is made only when its job is tried again",
        "engine/executor.py",
        'if b"rjk" in fields:',
        'if b"rjk" in fields and lease.attempts_made:',
    ),
    Defect(
        "next-job-not-made-by-pull",
        "a job of a scheduler that a pull worker gets makes no next one",
        "queues/pulls.py",
        'if b"rjk" in lease.fields and (fault',
        'if lease.attempts_made and b"rjk" in lease.fields and (fault',
    ),
    Defect(
        "pull-of-a-failed-parent",
        "a pull worker gets a job although a child of it has failed",
        "queues/pulls.py",
        "        if not deferred:\n",
        "        if lease.fields:\n",
    ),
    Defect(
        "gone-worker-keeps-jobs",
        "the jobs of a socket that is gone stay with it",
        "queues/sockets/worker.py",
        "                await consumer.end(stalled=socket.vanished)",
        "                consumer.stop()",
    ),
    Defect(
        "close-counts-as-drop",
        "a socket that is closed in good order counts as a stall of its jobs",
        "queues/sockets/worker.py",
        "consumer.end(stalled=socket.vanished)",
        "consumer.end(stalled=True)",
    ),
    Defect(
        "released-after-lost-count",
        "a job whose lease was lost while its stall was counted is given back",
        "engine/executor.py",
        "        elif not lease.lost:  # it may",
        "        else:  # it may",
    ),
)
