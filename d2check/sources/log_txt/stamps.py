"""Wall clock from the prefixes of log lines, which name no year."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Sequence
from datetime import datetime, timezone

import numpy as np

_DAY = 86400.0
_HALF_YEAR = 182 * _DAY
_BEFORE_MONTH = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)

# Detectron2's logger: [MM/DD HH:MM:SS ...
_SHORT = re.compile(rb"\[(\d\d/\d\d) (\d\d):(\d\d):(\d\d)")
# logging's default, loguru, maskrcnn_benchmark: 2019-01-18 11:38:04,123
_LONG = re.compile(rb"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,6}))?")
_PREFIX_BYTES = 96


class Clock:
    """Seconds since the first line, over new year and leap days, from prefixes in file order."""

    def __init__(self) -> None:
        self._year_s = 0.0
        self._leap = False
        self._last = math.nan
        self._day, self._day_s = b"", 0.0
        self._stamp = b"none"  # the line's beginning that gave the last stamp

    def read(self, line: bytes) -> float:
        """The stamp of a line in seconds since an arbitrary moment; NaN if it has none."""
        if line[:16] == self._stamp:
            return self._last
        if line[:1] == b"[" and line[3:4] == b"/" and line[6:7] == b" ":
            try:  # the commonest of all, without a search
                found_s = self._short(
                    line[1:6], 3600 * int(line[7:9]) + 60 * int(line[10:12]) + int(line[13:15])
                )
                if found_s == self._last:
                    self._stamp = line[:16]
                return found_s
            except ValueError:
                pass
        self._stamp = b"none"
        found = _SHORT.search(line, 0, _PREFIX_BYTES)
        if found:
            day, hours, minutes, seconds = found.groups()
            return self._short(day, 3600 * int(hours) + 60 * int(minutes) + int(seconds))
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

    def read_all(self, prefixes: Sequence[bytes]) -> array[float]:
        """The stamps of many lines, as `read` gives them one by one."""
        found = self._of_one_day(prefixes)
        return found if found is not None else array("d", map(self.read, prefixes))

    def _of_one_day(self, prefixes: Sequence[bytes]) -> array[float] | None:
        """The stamps of lines that all begin as Detectron2's do and are of the last line's day."""
        starts = [prefix[:16] for prefix in prefixes]
        text = b"".join(starts)
        if len(text) != 16 * len(starts) or min(map(len, starts), default=0) < 16:
            return None
        signs = np.frombuffer(text, np.uint8).reshape(-1, 16)
        head = np.frombuffer(b"[" + self._day + b" ", np.uint8)
        digits = signs[:, (7, 8, 10, 11, 13, 14)].astype(np.int64) - ord("0")
        if (
            len(head) != 7
            or (signs[:, :7] != head).any()
            or (signs[:, (9, 12)] != ord(":")).any()
            or ((digits < 0) | (digits > 9)).any()
        ):
            return None
        seconds = digits @ np.array([36000, 3600, 600, 60, 10, 1], np.int64) + self._day_s
        self._last, self._stamp = float(seconds[-1]), starts[-1]
        return array("d", seconds.astype(np.float64).tobytes())

    def _short(self, day: bytes, second_of_day: int) -> float:
        if day != self._day:
            month, day_of_month = int(day[:2]), int(day[3:])
            if not (1 <= month <= 12 and 1 <= day_of_month <= 31):
                return math.nan
            self._day, self._day_s = day, self._begin_of(month, day_of_month)
        self._last = self._day_s + second_of_day
        return self._last

    def _begin_of(self, month: int, day_of_month: int) -> float:
        """The first moment of a day, in the year that lies nearest to the last stamp."""
        self._leap = self._leap or (month, day_of_month) == (2, 29)
        leap_day = 1 if self._leap and month > 2 else 0
        day = (_BEFORE_MONTH[month - 1] + day_of_month - 1 + leap_day) * _DAY
        if self._year_s + day < self._last - _HALF_YEAR:
            self._year_s += (366 if self._leap else 365) * _DAY
            self._leap = False
            return self._year_s + (_BEFORE_MONTH[month - 1] + day_of_month - 1) * _DAY
        if self._year_s and self._year_s + day > self._last + _HALF_YEAR:
            return self._year_s + day - 365 * _DAY  # another process, still before new year
        return self._year_s + day
