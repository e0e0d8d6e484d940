"""Which image was being loaded when that broke: the error of a torn file does not name it.

A loader's worker passes on the words of its error and nothing else, so that the name goes through
a file of the run folder.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .session import Session

FILE = "unloaded-by-worker-%s"
_WORKER = re.compile(r"DataLoader worker process (\d+)")


def tell(session: Session | None, records: Any, index: Any, error: BaseException) -> None:
    """Keep the name of the image whose loading raised `error`.

    records: the data set. index: of the image that was asked for; Detectron2 tries others where a
    mapper gives None.
    """
    if session is None:
        return
    try:
        keep(session, records[_tried(error, index)], error)
    except (LookupError, TypeError, ValueError):
        return  # a data set of another kind


def keep(session: Session | None, record: Any, error: BaseException) -> None:
    """The same, of a record of the data set."""
    import torch

    if session is None or not isinstance(record, dict):
        return
    name = record.get("file_name") or record.get("image_id")
    if name is None:
        return
    worker = torch.utils.data.get_worker_info()
    if worker is None:
        session.unloaded_image = (error, str(name))
        return
    try:
        with open(os.path.join(session.plan.folder, FILE % worker.id), "w") as file:
            file.write(str(name))
    except OSError:
        return  # a full disk: the error itself is told all the same


def image_of(session: Session, error: BaseException) -> str | None:
    """The image whose loading ended the training with this error, where that is known."""
    if session.unloaded_image is not None and session.unloaded_image[0] is error:
        return session.unloaded_image[1]
    worker = _WORKER.search(str(error))
    if worker is None:
        return None
    try:
        with open(os.path.join(session.plan.folder, FILE % worker.group(1))) as file:
            return file.read()
    except OSError:
        return None


def _tried(error: BaseException, index: Any) -> Any:
    """The index that MapDataset was at (its `cur_idx`)."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "__getitem__":
            index = trace.tb_frame.f_locals.get("cur_idx", index)
            break
        trace = trace.tb_next
    return index
