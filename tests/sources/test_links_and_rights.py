"""Reading stays within what the user named, and tells what it did not or could not look into."""

import contextlib
import gzip
import json
import os
import tempfile
from pathlib import Path

import pytest

from d2check import pipeline, sources
from d2check.errors import InputError
from d2check.fleet import RuleChoice
from d2check.model import Unreadable

ROWS = "".join(
    json.dumps({"iteration": i, "total_loss": 2 - i / 1000, "lr": 0.01}) + "\n"
    for i in range(19, 400, 20)
)
LOG = "".join(
    f"[03/01 09:0{i // 60}:{i % 60:02} d2.utils.events]:  eta: 0:01:00  iter: {i}  "
    f"total_loss: {3 - i / 1000:.4g}  time: 0.5  data_time: 0.01  lr: 0.01  max_mem: 900M\n"
    for i in range(19, 200, 20)
)
NOBODY = 65534


@contextlib.contextmanager
def without_rights():
    """As a user whom no file belongs to; root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def tree():
    """A folder that everybody may enter, and that can be removed whatever was closed in it."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        yield root
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)


def make(path: Path, content: str = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def link(path: Path, to: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)
    return path


def found(root: Path) -> tuple[list[str], list[str], list[str]]:
    """Outputs, links that were not followed, and what could not be looked into; below a root."""
    links: list[Path] = []
    items = list(sources.discover([root], links.append))
    bad = [i for i in items if isinstance(i, Unreadable)]
    outputs = [str(i.relative_to(root)) for i in items if isinstance(i, Path)]
    told = [str(path.relative_to(root)) for path in links]
    return outputs, told, [f"{Path(i.path).relative_to(root)}: {i.message}" for i in bad]


# ------------------------------------------------------------------------------------ links


def test_links_out_of_the_tree_are_told_and_not_followed(tree):
    make(tree / "secret/metrics.json")
    make(tree / "named/mine/metrics.json")
    link(tree / "named/folder", tree / "secret")
    link(tree / "named/rows.json", tree / "secret/metrics.json")
    link(tree / "named/gone.txt", tree / "secret/nothing.txt")
    outputs, links, bad = found(tree / "named")
    assert outputs == ["mine"]
    assert links == ["folder", "gone.txt", "rows.json"]
    assert bad == []


def test_links_that_cannot_lead_to_an_output_are_not_told(tree):
    make(tree / "elsewhere/weights.pth")
    make(tree / "named/mine/metrics.json")
    link(tree / "named/mine/model_final.pth", tree / "elsewhere/weights.pth")
    link(tree / "named/.hidden", tree / "elsewhere")
    assert found(tree / "named") == (["mine"], [], [])


def test_a_link_within_the_tree_is_no_second_output(tree):
    make(tree / "runs/3/metrics.json")
    link(tree / "runs/latest", tree / "runs/3")
    link(tree / "best/metrics.json", tree / "runs/3/metrics.json")
    assert found(tree) == (["runs/3"], [], [])


def test_a_link_into_a_hidden_store_of_the_tree_is_read(tree):
    """As git-annex and DVC keep large files."""
    link(tree / "out/metrics.json", make(tree / ".git/annex/objects/f3/SHA256"))
    assert found(tree) == (["out/metrics.json"], [], [])


def test_loops_end(tree):
    make(tree / "out/metrics.json")
    link(tree / "out/up", tree)
    link(tree / "out/self.json", tree / "out/self.json")
    link(tree / "ping", tree / "pong")
    link(tree / "pong", tree / "ping")
    outputs, _, bad = found(tree)
    assert outputs == ["out"]
    assert bad == []
    assert sources.read(tree / "out")[0].rows == 20


def test_an_output_folder_whose_rows_are_a_link_out_is_told_with_what_to_do(tree):
    make(tree / "secret/metrics.json")
    folder = link(tree / "out/metrics.json", tree / "secret/metrics.json").parent
    outputs, links, (bad,) = found(folder)
    assert (outputs, links) == ([], ["metrics.json"])
    assert "metrics.json" in bad
    assert "Name the link itself" in bad
    with pytest.raises(InputError, match="link that leads out") as error:
        sources.read(folder)
    assert error.value.where == str(folder / "metrics.json")


@pytest.mark.parametrize("name", ["metrics.json", "metrics.json.gz", "events.out.tfevents.1.h.1.0",
                                  "console.txt", "log.txt.rank1"])  # fmt: skip
def test_beside_a_log_a_link_out_is_told_and_the_log_is_read(tree, name):
    make(tree / "out/log.txt", LOG)
    secret = make(tree / "secret/file", ROWS)
    link(tree / "out" / name, secret)
    (run,) = sources.read(tree / "out")
    assert run.rows == 10
    (told,) = (event for event in run.events if event.kind == "unreadable")
    assert "leads out of the folder" in told.message
    assert told.read_from == str(tree / "out" / name)


def test_a_log_that_is_a_link_out_is_told_and_the_rows_are_read(tree):
    make(tree / "out/metrics.json")
    link(tree / "out/log.txt", make(tree / "secret/log.txt", LOG))
    (run,) = sources.read(tree / "out")
    assert run.rows == 20
    assert "time_mean" not in run.series
    assert [event.kind for event in run.events if event.kind == "unreadable"] == ["unreadable"]
    assert found(tree / "out")[:2] == (["."], ["log.txt"])


def test_a_link_that_is_named_is_followed(tree):
    rows = make(tree / "real/metrics.json")
    link(tree / "named/folder", tree / "real")
    link(tree / "named/rows.json", rows)
    for path in (tree / "named/folder", tree / "named/rows.json"):
        assert list(sources.discover([path])) == [path]
        assert sources.read(path)[0].rows == 20


def test_a_named_link_that_leads_nowhere_is_told(tree):
    path = link(tree / "gone", tree / "nothing")
    (told,) = sources.discover([path])
    assert isinstance(told, Unreadable)
    assert "a link that leads nowhere" in told.message


def test_a_config_that_inherits_from_outside_is_not_read(tree):
    make(tree / "secret.yaml", "SOLVER: {BASE_LR: 0.5}\n")
    make(tree / "out/metrics.json")
    make(tree / "out/config.yaml", "_BASE_: ../secret.yaml\nSOLVER: {MAX_ITER: 400}\n")
    (run,) = sources.read(tree / "out")
    assert run.config is None
    assert "outside of its folder" in run.absent["config"]


@pytest.mark.parametrize("name", ["records.jsonl", "records.rank1.jsonl", "ending.json"])
def test_a_run_folder_whose_records_are_a_link_out_is_refused(tree, name):
    make(tree / "run/plan.json", "{}")
    make(tree / "run/records.jsonl", '{"t": "iter", "i": 0, "clock": 1.0}\n')
    (tree / "run" / name).unlink(missing_ok=True)
    link(tree / "run" / name, make(tree / "secret/file", "{}"))
    with pytest.raises(InputError, match="leads out of the folder"):
        sources.read(tree / "run")


def test_a_link_that_a_trained_script_left_in_a_run_folder_costs_no_report(tree):
    make(tree / "run/records.jsonl", '{"t": "iter", "i": 0, "clock": 1.0}\n')
    link(tree / "run/latest", tree)
    (run,) = sources.read(tree / "run")
    assert run.rows == 1


def test_a_pipe_in_the_tree_is_not_waited_for(tree):
    make(tree / "out/log.txt", LOG)
    os.mkfifo(tree / "out/metrics.json")
    os.mkfifo(tree / "out/console.txt")
    (run,) = sources.read(tree / "out")
    assert run.rows == 10
    assert found(tree)[0] == ["out"]


# ------------------------------------------------------------------------------------ rights


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
def test_a_folder_without_rights_is_told_and_stops_nothing(tree, mode):
    make(tree / "closed/metrics.json")
    make(tree / "open/metrics.json")
    (tree / "closed").chmod(mode)
    with without_rights():
        outputs, _, (told,) = found(tree)
        assert outputs == ["open"]
        assert told.startswith("closed")
        assert "Permission denied" in told
        with pytest.raises(InputError, match="Permission denied"):
            sources.read(tree / "closed")


def test_a_path_behind_a_closed_folder_is_told(tree):
    path = make(tree / "closed/deep/metrics.json")
    (tree / "closed").chmod(0)
    with without_rights():
        (told,) = sources.discover([path])
        assert isinstance(told, Unreadable)
        assert "Permission denied" in told.message
        with pytest.raises(InputError, match="Permission denied"):
            sources.read(path)


@pytest.mark.parametrize("name", ["rows.json", "console.log", "log.txt.1"])
def test_a_file_that_might_be_an_output_and_cannot_be_opened_is_told(tree, name):
    make(tree / "open/metrics.json")
    make(tree / "closed" / name).chmod(0)
    with without_rights():
        outputs, _, (told,) = found(tree)
    assert outputs == ["open"]
    assert told.startswith(f"closed/{name}")


@pytest.mark.parametrize("name", ["metrics.json", "events.out.tfevents.1.h.1.0", "console.txt"])
def test_beside_a_log_a_file_without_rights_is_told_and_the_log_is_read(tree, name):
    make(tree / "out/log.txt", LOG)
    make(tree / "out" / name).chmod(0)
    with without_rights():
        (run,) = sources.read(tree / "out")
    assert run.rows == 10
    (told,) = (event for event in run.events if event.kind == "unreadable")
    assert "Permission denied" in told.message


def test_an_audit_notes_the_links_that_it_did_not_follow(tree):
    make(tree / "secret/metrics.json")
    make(tree / "named/mine/metrics.json")
    link(tree / "named/away", tree / "secret")
    report = pipeline.audit([tree / "named"], RuleChoice())
    assert [one.run.rows for one in report.runs] == [20]
    (note,) = report.notes
    assert f"1 link out of the named folders not followed: {tree}/named/away" in note


def test_an_audit_changes_nothing_and_needs_no_right_to_write(tree):
    make(tree / "one/metrics.json")
    make(tree / "one/log.txt", LOG)
    make(tree / "one/config.yaml", "SOLVER: {BASE_LR: 0.01, MAX_ITER: 400}\n")
    make(tree / "two/metrics.json.gz").write_bytes(gzip.compress(ROWS.encode()))
    make(tree / "three/records.jsonl", '{"t": "iter", "i": 0, "clock": 1.0}\n')
    for path in (*tree.rglob("*"), tree):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat()[:9] for path in (tree, *tree.rglob("*"))}
    with without_rights():
        report = pipeline.audit([tree], RuleChoice())
    assert [one.run.rows for one in report.runs] == [10, 20, 1, 20]
    assert report.unreadable == ()
    after = {path: path.stat()[:9] for path in (tree, *tree.rglob("*"))}
    assert {path: (*one[:7], one[8]) for path, one in after.items()} == {
        path: (*one[:7], one[8]) for path, one in before.items()
    }
