"""Which image was being loaded when that broke: the error of a torn file does not name it.

A loader's worker passes on the words of its error and nothing else, so that the name goes through
a file of the run folder.
"""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any, Iterable

LOOKS_S = 2.0
FILE = "unloaded-by-worker-%s"
_WORKER = re.compile(r"DataLoader worker process (\d+)")


class UnloadedImage:
    """The image whose loading broke last in this process, and those that workers wrote down.

    folder: the run folder.
    """

    def __init__(self, folder: str) -> None:
        """None has."""
        self._folder = folder
        self._own: tuple[BaseException, dict[str, Any]] | None = None

    def tell(self, records: Any, index: Any, error: BaseException) -> None:
        """Keep the name of the image whose loading raised `error`.

        records: the data set. index: of the image that was asked for; Detectron2 tries others
        where a mapper gives None.
        """
        try:
            record = records[_tried(error, index)]
        except (LookupError, TypeError, ValueError):
            return  # a data set of another kind
        self.keep(record, error, records if isinstance(error, FileNotFoundError) else ())

    def keep(self, record: Any, error: BaseException, others: Iterable[Any] = ()) -> None:
        """The same, of a record of the data set. others: records whose files are looked for."""
        import torch

        name = None
        if isinstance(record, dict):
            name = record.get("file_name") or record.get("image_id")
        if name is None:
            return
        told = {"image": str(name), "images_missing": _missing(others)}
        worker = torch.utils.data.get_worker_info()
        if worker is None:
            self._own = (error, told)
            return
        try:
            with open(os.path.join(self._folder, FILE % worker.id), "w") as file:
                json.dump(told, file)
        except OSError:
            return  # a full disk: the error itself is told all the same

    def of(self, error: BaseException) -> dict[str, Any]:
        """The fields of an `end` record that tell of the image whose loading raised `error`."""
        if self._own is not None and self._own[0] is error:
            return self._own[1]
        worker = _WORKER.search(str(error))
        if worker is None:
            return {}
        try:
            with open(os.path.join(self._folder, FILE % worker.group(1))) as file:
                told: dict[str, Any] = json.load(file)
                return told
        except (OSError, ValueError):
            return {}


def _missing(records: Iterable[Any]) -> list[int] | None:
    """[files that do not exist, files looked for] of images; None where none is missing.

    Only for as long as LOOKS_S: a network's folder may take a millisecond for each.
    """
    until_s = time.monotonic() + LOOKS_S
    missing = looked = 0
    for record in records:
        name = record.get("file_name") if isinstance(record, dict) else None
        if not isinstance(name, str) or "://" in name:
            return None
        looked += 1
        missing += not os.path.exists(name)
        if time.monotonic() > until_s:
            break
    return [missing, looked] if missing else None


def _tried(error: BaseException, index: Any) -> Any:
    """The index that MapDataset was at (its `cur_idx`)."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "__getitem__":
            index = trace.tb_frame.f_locals.get("cur_idx", index)
            break
        trace = trace.tb_next
    return index
