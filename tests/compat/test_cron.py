"""Cron patterns as Node's BullMQ reads them: the same times around every clock change, and the same refused.

Node answers all questions of a test in one process.
"""

import json
import random
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from toril.bullmq.rules.cron import next_due
from toril.bullmq.rules.cron_pattern import PatternFault, read_pattern
from toril.bullmq.rules.repeat import RepeatFault, read_repeat
from toril.bullmq.rules.zones import Zone
from toril.bullmq.time_zones import read_zone

HOUR = 3_600_000
ZONES = (
    "Europe/Berlin", "Europe/London", "America/New_York", "America/St_Johns", "America/Santiago", "America/Havana",
    "Africa/Cairo", "Asia/Jerusalem", "Australia/Sydney", "Pacific/Auckland", "Antarctica/Troll", "America/Nuuk",
)  # fmt: skip
# At night, when clocks change, and beside it; in every hour; by day and weekday.
PATTERNS = (
    "0 6 * * *", "0 6 * * MON", "*/15 * * * *", "0 * * * *", "*/30 * * * * *", "30 2 * * *", "15,45 0-3 * * *",
    "30 1,3 * * SUN", "0 0 * * *", "59 23 * * *", "0 0-22 * * *", "30 */2 * * *", "0 0 L * *", "0 3 * * 0L",
    "0 12 1 * 0#1", "20-40/10 0 1,25-31 3,10,11 *", "H H(0-3) * * *", "H/20 2 * * *", "10 59 1 * * *", "@weekly",
)  # fmt: skip
READ = (
    "5 4 * * *", "0 0 * * 5L", "0 0 5L * *", "L", "0 0 L * *", "0 0 * * L", "0 0 L5 * *", "0 0 * * L5", "0 0 LW * *",
    "R * * * *", "0 0 R * *", "H * * * *", "H/15 H * * *", "H(5-9) H(1-3)/2 * * *", "H(9-5) * * * *", "H/0 * * * *",
    "h * * * *", "@minutely", "@secondly", "@weekdays", "@weekends", "@hourly", "@daily", "@weekly", "@monthly",
    "@yearly", "@annually", "@midnight", "@reboot", "@Daily", " @daily", "0 0 ? * ?", "? ? ? ? ?", "0 0 * JAN SUN",
    "0 0 * mon jul", "0 0 * * monday", "0 0 1 foo *", "60 * * * *", "-1 * * * *", "* 24 * * *", "* * 0 * *",
    "* * 32 * *", "* * * 13 *", "* * * 0 *", "* * * * 7", "* * * * 8", "0 0 * * 0,7", "0 0 * * 5-7", "0 0 * * 6-1",
    "1,1 * * * *", "1, * * * *", ", * * * *", "1-5-9 * * * *", "1--5 * * * *", "5-1 * * * *", "*/0 * * * *",
    "*/99 * * * *", "*/a * * * *", "1/2/3 * * * *", "/5 * * * *", "5/ * * * *", "*/* * * * *", "0 0 */* * *",
    "** * * * *", "*-5 * * * *", "?- * * * *", "0 0 * * 1#2", "0 0 * * 1#6", "0 0 * * 1#0", "0 0 * * 1#", "0 0 * * #1",
    "0 0 * * 1#1#2",
    "0 0 * * 1,2#2", "0 0 * * 1-2#2", "0 0 * * *#2", "0 0 * * 5L#2", "0 0 * * fri#02", "0 0 30 2 *",
    "0 0 30 2 MON", "0 0 31 4 *", "0 0 30,31 2 *", "0 0 28-31 2 *", "0 0 29 2 *", "0 0 29 2 1#5", "5", "4 5", "3 4 5",
    "2 3 4 5", "0 0 0 1 1 * *", "0 0 0 1 1 * 2030", " ", "a", "1.5 * * * *", "0x5 * * * *", "+5 * * * *", "٣ * * * *",
    "05 007 * * *", "0\t0\u00a0* * *", "0\x1f0 * * *", "99L * * * *", "0 0 99L * *", "0 0 100L * *", "0 0 * * 9L",
    "0 0 * * 1,5L", "0 0 * * 1-5L", "0 0 1-5L * *", "0 0 L,1 * *", "0 0 L/2 * *", "0 0 5L/2 * *", "0 0 L,L * *",
    "H,H * * * *", "H-59 * * * *", "1H * * * *", "0 0 H#2 * *", "0 0 * * H#2", "0 " * 700, "0," * 400 + "0 * * * *",
    "*," * 300 + "* * * * *", "H/1," * 100 + "1 * * * *",
)  # fmt: skip


def ask(node: Path, version: str, questions: list[list[Any]]) -> list[Any]:
    """When Node says that each pattern is due; None where never, or where it refuses the pattern."""
    command, asked = ["node", "cron.mjs", version], json.dumps(questions)
    done = subprocess.run(command, cwd=node, input=asked, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [answer if isinstance(answer, int) else None for answer in json.loads(done.stdout)]


def ours(pattern: str, zone: str, after_ms: int, options: dict[str, str]) -> int | None:
    try:
        return next_due(read_pattern(pattern, options["hashSeed"]), read_zone(zone), after_ms)
    except PatternFault:
        return None


def changes(name: str) -> list[int]:
    """When the clocks of a zone change from 2026 to 2028, in milliseconds."""
    zone, found = read_zone(name), []
    begin, end = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (2026, 2029))
    for day in range(begin, end, 86_400):
        if zone.offset(day) != zone.offset(day + 86_400):
            found += [_change_between(zone, day, day + 86_400) * 1000]
    return found


def _change_between(zone: Zone, before: int, after: int) -> int:
    while after - before > 1:
        middle = (before + after) // 2
        if zone.offset(middle) == zone.offset(before):
            before = middle
        else:
            after = middle
    return after


def differing(node: Path, questions: list[list[Any]]) -> list[Any]:
    """The questions on which Node and toril do not agree, with both answers."""
    answers = ask(node, "6", questions)
    assert sum(answer is not None for answer in answers) > len(questions) // 3
    pairs = zip(questions, answers, [ours(*question) for question in questions], strict=True)
    return [(*question, theirs, mine) for question, theirs, mine in pairs if theirs != mine]


def test_every_clock_change_of_three_years_is_passed_as_node_passes_it(node_modules: Path) -> None:
    questions: list[list[Any]] = []
    chance = random.Random(15)  # the same questions in every run
    for zone in ZONES:
        moments = changes(zone)
        assert len(moments) == 6, zone
        for pattern in PATTERNS:
            # One change of each kind by every pattern; the years take turns.
            for kind in range(2):
                change = moments[kind + 2 * chance.randrange(3)]
                before = chance.choice([-26 * HOUR, -3 * HOUR, -HOUR, -HOUR // 2, -1, 0, HOUR // 2, HOUR])
                questions.append([pattern, zone, change + before, {"hashSeed": "seed"}])
    assert differing(node_modules, questions) == []


def test_toril_and_node_accept_and_refuse_the_same_patterns(node_modules: Path) -> None:
    after = int(datetime(2026, 11, 29, tzinfo=UTC).timestamp() * 1000)
    questions = [[pattern, "UTC", after, {"hashSeed": seed}] for pattern in READ for seed in ("a", "ü𝒳")]
    assert differing(node_modules, questions) == []


def part(chance: random.Random, low: int, high: int, odd: str) -> str:
    """One field of a pattern, as chance has it."""
    one, other = chance.randint(low, high), chance.randint(low, high)
    kinds = [f"{one}", "*", f"*/{max(1, one)}", f"{one}-{other}", f"{min(one, other)}-{max(one, other)}/2", f"{one}/7",
             f"{one},{other}", "H", f"H/{max(1, one)}", f"H({one}-{other})", chance.choice(odd.split())]  # fmt: skip
    return chance.choices(kinds, [6, 9, 3, 1, 2, 1, 2, 1, 1, 1, 1])[0]


def any_pattern(chance: random.Random) -> str:
    fields = [
        part(chance, 0, 59, "60 ? L R 1-"),
        part(chance, 0, 23, "24 ? 0-23 1#2"),
        part(chance, 1, 31, "L 5L ? 0 LW 31,L"),
        part(chance, 1, 12, "jan JUL 0 ? sun"),
        part(chance, 0, 7, "mon#1 5L ? 7#5 MON-FRI tue,THU 1#6 L"),
    ]
    return " ".join(fields if chance.random() < 0.7 else ["*/20", *fields])


def test_random_patterns_are_due_at_the_same_times_as_in_node(node_modules: Path) -> None:
    chance = random.Random(6)
    questions: list[list[Any]] = []
    for _ in range(600):
        zone = chance.choice(ZONES)
        after = chance.choice(changes(zone)[:2]) + chance.randint(-30 * HOUR, 6 * HOUR)
        questions.append([any_pattern(chance), zone, after, {"hashSeed": chance.choice("abc")}])
    assert differing(node_modules, questions) == []


def test_dates_and_immediately_count_as_in_node(node_modules: Path) -> None:
    after = int(datetime(2026, 11, 29, 10, 30, tzinfo=UTC).timestamp() * 1000)
    cases = [
        {"startDate": after + 5 * HOUR}, {"startDate": after - HOUR}, {"startDate": after + HOUR // 2},
        {"endDate": after + HOUR // 2}, {"endDate": after + HOUR // 2 - 1}, {"endDate": after - 1},
        {"startDate": after + HOUR, "endDate": after + HOUR + 1}, {"startDate": "2026-12-01T00:00:00Z"},
        {"startDate": 9e15}, {"limit": 3}, {"tz": "nowhere"}, {"startDate": 0}, {"offset": 20},
    ]  # fmt: skip
    theirs = ask(node_modules, "6", [["0 * * * *", case.get("tz", "UTC"), after, case] for case in cases])
    mine: list[int | None] = []
    for case in cases:
        try:
            due = read_repeat({"tz": "UTC", "pattern": "0 * * * *"} | case, "x", read_zone).next(after, 0)
            mine.append(None if due is None else due.at_ms)
        except RepeatFault:
            mine.append(None)
    assert list(zip(cases, mine, strict=True)) == list(zip(cases, theirs, strict=True))


@pytest.mark.parametrize("pattern", ["@minutely", "@weekdays", "H * * * *"])
def test_bullmq_5_does_not_read_the_pattern_syntax_new_in_6(node_modules: Path, pattern: str) -> None:
    assert ask(node_modules, "5", [[pattern, "UTC", 1_795_000_000_000, {"hashSeed": "a"}]]) == [None]
