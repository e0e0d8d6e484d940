"""Which image it was whose loading ended the training."""

from __future__ import annotations

import types

import pytest

from d2check.probe import datasets
from d2check.probe.plan import Plan
from d2check.probe.recorder import Recorder
from d2check.probe.session import Session
from tests.conftest import read_records

data = pytest.importorskip("torch.utils.data")

RECORDS = [{"file_name": f"images/{number}.jpg"} for number in range(8)]


def read(record):
    if record["file_name"] == "images/gone.jpg":
        open(record["file_name"]).close()
    if record["file_name"] == "images/5.jpg":
        raise OSError("Truncated File Read")
    return {"image": 1}


class MapDataset:
    """As detectron2.data.common's, less the images that a mapper refuses."""

    def __init__(self, dataset, map_func):
        self._dataset, self._map_func = dataset, map_func

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, index):
        cur_idx = int(index)
        return self._map_func(self._dataset[cur_idx])


class Iterable(data.IterableDataset):
    """As detectron2.data.common's _MapIterableDataset."""

    def __init__(self, dataset, map_func):
        self._dataset, self._map_func = dataset, map_func

    def __iter__(self):
        yield from map(self._map_func, self._dataset)


@pytest.fixture
def broken(tmp_path):
    """The record of a crash in a loader of this kind, with so many workers."""

    def load(kind, workers, records=RECORDS):
        session = Session(Plan({"folder": str(tmp_path)}), Recorder(str(tmp_path)))
        module = types.SimpleNamespace(
            MapDataset=type("MapDataset", (MapDataset,), {}),
            _MapIterableDataset=type("_MapIterableDataset", (Iterable,), {}),
        )
        datasets.watch_loading(module, session)
        loader = data.DataLoader(
            getattr(module, kind)(records, read), num_workers=workers, collate_fn=list
        )
        with pytest.raises(OSError, match=r"Truncated|No such") as raised:
            list(loader)
        session.recorder.open(0)
        session.crashed(raised.value)
        return read_records(tmp_path)[-1]

    return load


@pytest.mark.parametrize("kind", ["MapDataset", "_MapIterableDataset"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_image_whose_loading_broke_is_named(broken, kind, workers):
    assert broken(kind, workers)["image"] == "images/5.jpg"


def test_another_error_of_this_process_names_no_image(broken, tmp_path):
    broken("MapDataset", 0)
    session = Session(Plan({"folder": str(tmp_path)}), Recorder(str(tmp_path)))
    session.unloaded_image.keep(RECORDS[5], OSError("Truncated File Read"))
    session.recorder.open(0)
    session.crashed(ValueError("not of the loader"))
    assert "image" not in read_records(tmp_path)[-1]


@pytest.mark.parametrize("workers", [0, 2])
def test_of_files_that_are_not_there_all_are_counted(broken, tmp_path, workers):
    there = tmp_path / "1.jpg"
    there.touch()
    records = [{"file_name": name} for name in (str(there), "images/gone.jpg", "images/9.jpg")]
    end = broken("MapDataset", workers, records)
    assert end["image"] == "images/gone.jpg"
    assert end["images_missing"] == [2, 3]


def test_files_of_a_remote_store_are_not_looked_for(broken):
    records = [{"file_name": "images/gone.jpg"}, {"file_name": "s3://bucket/2.jpg"}]
    assert broken("MapDataset", 0, records).get("images_missing") is None
