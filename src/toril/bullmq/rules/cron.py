"""When a cron pattern is next due in a time zone. Equal to BullMQ 6 on Node, also where the clocks change.

Where they go forward, the times of the hours that they skip count in the hour in which they land. Where they go back,
the hour that comes twice counts once, unless the pattern allows every hour of the day: then it is due in both. These
rules hold where hour follows hour. A day that begins with a skipped or repeated hour begins as the clocks say.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import date

from toril.bullmq.rules.cron_pattern import CronPattern, days_in
from toril.bullmq.rules.zones import Zone

_DAY_S, _HOUR_S, _MINUTE_S = 86400, 3600, 60
_ORDINAL_OF_1970 = 719163
# Calendar and zones repeat after 400 years. What is later than the calendar of Python is looked up that much earlier.
_CYCLE_S = 146097 * _DAY_S
_LATEST_S = 7000 * 365 * _DAY_S
# No search needs a tenth of it: days are found at once, and hours within two days.
_MOST_STEPS = 2000


def next_due(pattern: CronPattern, zone: Zone, after_ms: int) -> int | None:
    """Return the first moment after another one at which the pattern is due (both in milliseconds), or None."""
    after_s, rest_ms = divmod(after_ms, 1000)
    cycles = max(0, -(-(after_s - _LATEST_S) // _CYCLE_S))
    found = _Search(pattern, zone, after_s - cycles * _CYCLE_S).run(between_seconds=rest_ms > 0)
    return None if found is None else (found + cycles * _CYCLE_S) * 1000


class _Search:
    """A wall clock in the zone, turned forward until the pattern fits."""

    def __init__(self, pattern: CronPattern, zone: Zone, begin_s: int) -> None:
        self._pattern = pattern
        self._zone = zone
        # An hour of the day that was skipped, and the one in which the clock landed; an hour that has begun again.
        self._skipped: tuple[int, int] | None = None
        self._repeated: int | None = None
        self._turn_to(begin_s)

    def _turn_to(self, utc_s: int) -> None:
        self._utc_s = utc_s
        self._offset = self._zone.offset(utc_s)
        self._day, rest = divmod(utc_s + self._offset, _DAY_S)
        self._hour, rest = divmod(rest, _HOUR_S)
        self._minute, self._second = divmod(rest, _MINUTE_S)

    def run(self, *, between_seconds: bool) -> int | None:
        """Return the first moment that fits after the one where the search began."""
        begin_s = self._utc_s
        if between_seconds:
            self._pass_to(begin_s + 1)
        for _ in range(_MOST_STEPS):
            day = self._pattern.first_day(self._day + _ORDINAL_OF_1970)
            if day is None:
                return None
            if day - _ORDINAL_OF_1970 != self._day:
                self._open_day(day - _ORDINAL_OF_1970)
            elif self._hour_fits() and self._minute_fits() and self._second_fits():
                if between_seconds or self._utc_s != begin_s:
                    return self._utc_s
                self._pass_to(begin_s + 1)
        return None

    def _hour_fits(self) -> bool:
        """Return True if the hour fits. Otherwise turn the clock to the next one that may."""
        hours = self._pattern.hours
        if self._skipped is not None and self._skipped[1] == self._hour:
            first, landed = self._skipped
            if any((first + passed) % 24 in hours for passed in range((landed - first) % 24)):
                return True
        if self._repeated == self._hour:
            self._repeated = None
            self._pass_hour()
            return False
        if self._hour in hours:
            return True
        self._skipped = None
        place = bisect_right(hours, self._hour)
        if place == len(hours):
            self._open_day(self._day + 1)
            return False
        wanted = hours[place]
        if self._is_day_of_change():
            for _ in range(wanted - self._hour):
                self._pass_hour()
                if self._hour >= wanted:
                    break
            self._set(self._hour, self._pattern.minutes[0], self._pattern.seconds[0])
        else:
            self._set(wanted, self._pattern.minutes[0], self._pattern.seconds[0])
        return False

    def _minute_fits(self) -> bool:
        """Return True if the minute fits. Otherwise turn the clock to the next one that may."""
        minutes, seconds = self._pattern.minutes, self._pattern.seconds
        if self._minute in minutes:
            return True
        place = bisect_right(minutes, self._minute)
        if place < len(minutes):
            self._set(self._hour, minutes[place], seconds[0])
        else:
            self._pass_hour()
            self._set(self._hour, minutes[0], seconds[0])
        return False

    def _second_fits(self) -> bool:
        """Return True if the second fits. Otherwise turn the clock to the next one that may."""
        seconds = self._pattern.seconds
        if self._second in seconds:
            return True
        place = bisect_right(seconds, self._second)
        if place < len(seconds):
            self._set(self._hour, self._minute, seconds[place])
        else:
            self._pass_to(self._utc_s + _MINUTE_S - self._second)
            self._set(self._hour, self._minute, seconds[0])
        return False

    def _set(self, hour: int, minute: int, second: int) -> None:
        """Turn the clock to a time of the same day; never back."""
        utc_s = self._zone.moment(_local(self._day, hour, minute, second), self._offset)
        if utc_s > self._utc_s:
            self._turn_to(utc_s)

    def _open_day(self, day: int) -> None:
        """Turn the clock to the beginning of a later day."""
        self._turn_to(self._beginning_of(day))

    def _beginning_of(self, day: int) -> int:
        """Return when a later day begins, as it is reached from the one before.

        That is by going on for a day (or for a month, from one in which the pattern is never due), and then back to the
        beginning. It decides which midnight is meant where the clocks show it twice. Where they skip the time that is
        reached, and midnight with it, the day after that begins.
        """
        begin = date.fromordinal(day + _ORDINAL_OF_1970)
        by_month = begin.day == 1 and (begin.month - 2) % 12 + 1 not in self._pattern.months
        before = day - 1
        if by_month:
            before -= date.fromordinal(before + _ORDINAL_OF_1970).day - 1
        near, reached_s = self._offset, day * _DAY_S
        if before > self._day:
            near = self._zone.offset(self._zone.moment(before * _DAY_S, near))
        else:
            reached_s += (self._hour * 60 + self._minute) * 60 + self._second
            if by_month:
                reached_s += min(self._day - before, days_in(begin.year, begin.month) - 1) * _DAY_S
        utc_s = self._zone.moment(reached_s, near)
        near = self._zone.offset(utc_s)
        if not by_month:
            day = (utc_s + near) // _DAY_S
        return self._zone.moment(day * _DAY_S, near)

    def _pass_hour(self) -> None:
        """Turn the clock to the beginning of the next hour that it shows."""
        later_s = self._utc_s + _HOUR_S
        offset = self._zone.offset(later_s)
        local_s = later_s + offset
        full_s = self._zone.moment(local_s - local_s % _HOUR_S, offset)
        if full_s <= self._utc_s:
            # The clocks go back within an hour (Lord Howe, Chatham), so that hour's beginning is over. BullMQ on Node
            # turns in a circle there, and its scheduler ends or makes jobs without a pause.
            full_s = self._utc_s + _HOUR_S - (self._minute * 60 + self._second)
        self._pass_to(full_s)

    def _pass_to(self, utc_s: int) -> None:
        """Let the clock go on to a moment at most an hour away, and notice which hours it skips or repeats."""
        hour, offset = self._hour, self._offset
        self._turn_to(utc_s)
        if len(self._pattern.hours) == 24:
            return
        advance = (self._hour - hour) % 24
        if advance >= 2 and self._offset > offset:
            self._skipped = ((hour + 1) % 24, self._hour)
        elif advance == 0 and self._minute == 0 and self._second == 0:
            self._repeated = self._hour

    def _is_day_of_change(self) -> bool:
        begin_s = self._zone.moment(self._day * _DAY_S, self._offset)
        return self._zone.offset(begin_s) != self._zone.offset(self._beginning_of(self._day + 1) - 1)


def _local(day: int, hour: int, minute: int, second: int) -> int:
    return day * _DAY_S + hour * _HOUR_S + minute * _MINUTE_S + second
