"""Wall clock from the prefixes of log lines, which name no year."""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone

_DAY = 86400.0
_HALF_YEAR = 182 * _DAY
_BEFORE_MONTH = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)

# Detectron2's logger: [MM/DD HH:MM:SS ...
_SHORT = re.compile(rb"\[(\d\d)/(\d\d) (\d\d):(\d\d):(\d\d)")
# logging's default, loguru, maskrcnn_benchmark: 2019-01-18 11:38:04,123
_LONG = re.compile(rb"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,6}))?")
_PREFIX_BYTES = 96


class Clock:
    """Seconds since the first line, over new year and leap days, from prefixes in file order."""

    def __init__(self) -> None:
        self._year_s = 0.0
        self._leap = False
        self._last = math.nan

    def read(self, line: bytes) -> float:
        """The stamp of a line in seconds since an arbitrary moment; NaN if it has none."""
        at = line.find(b"[", 0, _PREFIX_BYTES)
        if at >= 0:
            found = _SHORT.match(line, at)
            if found:
                month, day, hours, minutes, seconds = map(int, found.groups())
                return self._short(month, day, 3600 * hours + 60 * minutes + seconds)
        found = _LONG.search(line, 0, _PREFIX_BYTES)
        if not found:
            return math.nan
        year, month, day, hours, minutes, seconds = (int(part) for part in found.groups()[:6])
        try:
            moment = datetime(year, month, day, hours, minutes, seconds, tzinfo=timezone.utc)
        except ValueError:
            return math.nan
        share = found[7]
        return moment.timestamp() + (int(share) / 10 ** len(share) if share else 0.0)

    def _short(self, month: int, day: int, second_of_day: int) -> float:
        if not (1 <= month <= 12 and 1 <= day <= 31 and second_of_day < _DAY):
            return math.nan
        self._leap = self._leap or (month, day) == (2, 29)
        leap_day = 1 if self._leap and month > 2 else 0
        day_of_year = _BEFORE_MONTH[month - 1] + day - 1 + leap_day
        moment = self._year_s + day_of_year * _DAY + second_of_day
        if moment < self._last - _HALF_YEAR:
            self._year_s += (366 if self._leap else 365) * _DAY
            self._leap = False
            moment = self._year_s + (_BEFORE_MONTH[month - 1] + day - 1) * _DAY + second_of_day
        elif moment > self._last + _HALF_YEAR and self._year_s:
            moment -= 365 * _DAY  # another process still writes on New Year's Eve
        self._last = moment
        return moment
