"""Whatever tree a user names, its outputs are found, and nothing outside of it."""

import json
import os
from pathlib import Path

import pytest

from d2check import sources
from d2check.model import Unreadable

ROW = json.dumps({"iteration": 19, "total_loss": 1.0}) + "\n"


def make(root: Path, *names: str, content: str = ROW) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def found(*paths: Path, root: Path) -> list[str]:
    """What discover yields, relative to the root; unreadable paths with a question mark."""
    names = []
    for item in sources.discover(paths):
        mark = "? " if isinstance(item, Unreadable) else ""
        path = Path(item.path) if isinstance(item, Unreadable) else item
        names.append(mark + str(path.relative_to(root)))
    return names


def test_outputs_are_found_at_any_depth_in_the_order_of_their_names(tmp_path):
    make(tmp_path, "b/metrics.json", "a/deep/er/metrics.json", "c/records.jsonl")
    assert found(tmp_path, root=tmp_path) == ["a/deep/er", "b", "c"]


def test_an_output_inside_an_output_is_one_of_its_own(tmp_path):
    make(tmp_path, "out/metrics.json", "out/again/metrics.json")
    assert found(tmp_path, root=tmp_path) == ["out", "out/again"]


def test_results_of_an_evaluation_are_no_output(tmp_path):
    make(tmp_path, "out/metrics.json")
    make(tmp_path, "out/inference/coco_instances_results.json", content='[{"image_id": 1}]')
    make(tmp_path, "out/inference/instances.json", content='{"images": [], "iteration": "x"}')
    assert found(tmp_path, root=tmp_path) == ["out"]


def test_rows_under_another_name_are_found(tmp_path):
    make(tmp_path, "out/metrics.json", "rows.jsonl")
    make(tmp_path, "out/metrics_old.json", content=ROW.replace("1.0", "1.5"))
    assert found(tmp_path, root=tmp_path) == ["rows.jsonl", "out", "out/metrics_old.json"]


def test_nothing_inside_a_run_folder_is_an_output_of_its_own(tmp_path):
    make(tmp_path, "run/plan.json", "run/records.jsonl", "run/inner/metrics.json")
    assert found(tmp_path, root=tmp_path) == ["run"]


def test_a_metrics_json_of_another_program_is_no_output(tmp_path):
    """DVC, scikit-learn scripts and many more use the name."""
    make(tmp_path, "out/metrics.json")
    make(tmp_path, "dvc/metrics.json", content='{\n  "accuracy": 0.98,\n  "loss": 0.04\n}\n')
    make(tmp_path, "list/metrics.json", content='[{"step": 1, "loss": 2.0}]\n')
    assert found(tmp_path, root=tmp_path) == ["out"]
    assert found(tmp_path / "dvc", root=tmp_path) == ["? dvc"]


@pytest.mark.parametrize(
    "content", ["", "\0" * 500, '\0\0\0"loss": 1.0}\n', '"total_lo', '{"data_time": 0.1, "eta_s']
)
def test_rows_that_are_lost_are_an_output_of_which_that_is_told(tmp_path, content):
    make(tmp_path, "out/metrics.json", content=content)
    assert found(tmp_path, root=tmp_path) == ["out"]


def test_rows_of_thousands_of_keys_are_found(tmp_path):
    row = {f"bbox/AP-class {k:04}": 1.0 for k in range(3000)} | {"iteration": 19, "total_loss": 1.0}
    make(tmp_path, "out/metrics.json", content=json.dumps(row, sort_keys=True) + "\n")
    assert found(tmp_path, root=tmp_path) == ["out"]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    """macOS writes ._metrics.json beside metrics.json on foreign disks."""
    make(tmp_path, "out/metrics.json", "out/._metrics.json", ".trash/metrics.json")
    assert found(tmp_path, root=tmp_path) == ["out"]


def test_links_out_of_the_tree_are_not_followed(tmp_path):
    make(tmp_path, "elsewhere/metrics.json", "elsewhere/rows.json", "tree/mine/metrics.json")
    (tmp_path / "tree/folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "tree/rows.json").symlink_to(tmp_path / "elsewhere/rows.json")
    assert found(tmp_path / "tree", root=tmp_path) == ["tree/mine"]


def test_metrics_that_are_a_link_out_of_the_tree_are_not_read(tmp_path):
    make(tmp_path, "secret/metrics.json", "tree/real/metrics.json")
    (tmp_path / "tree/fake").mkdir()
    (tmp_path / "tree/fake/metrics.json").symlink_to(tmp_path / "secret/metrics.json")
    assert found(tmp_path / "tree", root=tmp_path) == ["tree/real"]


def test_a_link_that_leads_to_itself_ends(tmp_path):
    make(tmp_path, "out/metrics.json")
    (tmp_path / "out/loop").symlink_to(tmp_path)
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    assert found(tmp_path, root=tmp_path) == ["out"]


def test_a_link_that_the_user_names_is_followed(tmp_path):
    make(tmp_path, "real/metrics.json")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert found(tmp_path / "link", root=tmp_path) == ["link"]


def test_a_file_that_is_named_is_taken_as_it_is(tmp_path):
    make(tmp_path, "anything.txt", content="no rows at all")
    assert found(tmp_path / "anything.txt", root=tmp_path) == ["anything.txt"]


def test_a_missing_path_and_an_empty_folder_are_told_and_stop_nothing(tmp_path):
    make(tmp_path, "out/metrics.json", "empty/readme.md")
    paths = [tmp_path / "nowhere", tmp_path / "empty", tmp_path / "out"]
    assert found(*paths, root=tmp_path) == ["? nowhere", "? empty", "out"]


def test_an_output_named_twice_is_judged_once(tmp_path):
    make(tmp_path, "out/metrics.json")
    assert found(tmp_path, tmp_path / "out", root=tmp_path) == ["out"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_without_rights_is_told_and_stops_nothing(tmp_path):
    make(tmp_path, "closed/metrics.json", "open/metrics.json")
    (tmp_path / "closed").chmod(0)
    try:
        assert found(tmp_path, root=tmp_path) == ["open", "? closed"]
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_a_folder_that_cannot_be_listed_is_told_and_stops_nothing(tmp_path, monkeypatch):
    make(tmp_path, "closed/metrics.json", "open/metrics.json")
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    items = found(tmp_path, root=tmp_path)
    assert "open" in items
    assert "? closed" in items
