"""Folders as users have them after copying, packing and moving: read as far as they tell, in words
that say what is there."""

import gzip
import io
import json
import tarfile
import zipfile

import pytest

from d2check import sources
from d2check.errors import InputError
from d2check.model import EndingKind, Run, Unreadable
from tests.sources.written import log, rows, write_events

ROWS = "".join(rows(999))


def only(path) -> Run:
    (run,) = sources.read(path)
    return run


def refused(path) -> str:
    """Why nothing below a path can be audited."""
    (found,) = sources.discover([path])
    if isinstance(found, Unreadable):
        return found.message
    with pytest.raises(InputError) as error:
        sources.read(found)
    return str(error.value)


def tar_of(name: str, data: bytes, mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def zip_of(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("out.zip", zip_of("output/metrics.json", ROWS.encode()), "a zip archive"),
        ("out.tar", tar_of("output/metrics.json", ROWS.encode()), "a tar archive"),
        ("out.tgz", tar_of("output/log.txt", log(999).encode(), "w:gz"), "a tar archive"),
        ("out.tar.xz", tar_of("metrics.json", ROWS.encode(), "w:xz"), "packed by xz"),
        ("out.tar.bz2", tar_of("metrics.json", ROWS.encode(), "w:bz2"), "packed by bzip2"),
        ("model_final.pth", zip_of("archive/data.pkl", b"\x80\x02."), "a checkpoint of PyTorch"),
    ],
)
def test_an_archive_is_called_one_and_not_read_as_text(tmp_path, name, data, what):
    """Rows lie unpacked in a tar; read as text, those of several runs would be mixed up."""
    path = tmp_path / name
    path.write_bytes(data)
    text = refused(path)
    assert what in text
    assert ("Unpack it" in text) == (name != "model_final.pth")
    assert ("archive (" in refused(tmp_path)) == (name != "model_final.pth")


def test_a_folder_without_metrics_says_what_is_missing(tmp_path):
    (tmp_path / "config.yaml").write_text("VERSION: 2\n")
    assert "config.yaml, but no metrics.json and no log" in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "git lfs pull"),
        ("<!DOCTYPE html><html><title>404</title></html>\n", "a web page"),
        (json.dumps([json.loads(row) for row in rows(99)], indent=1), "jq -c '.[]' metrics.json"),
        ("".join(json.dumps(json.loads(row), indent=1) + "\n" for row in rows(99)), "jq -c '.' "),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_what_is_no_rows_is_named_for_what_it_is(tmp_path, text, what, named):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        sources.read(path if named else tmp_path)
    assert what in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_rows_and_logs_that_powershell_wrote_are_read(tmp_path, encoding):
    (tmp_path / "metrics.json").write_bytes(ROWS.replace("\n", "\r\n").encode(encoding))
    run = only(tmp_path)
    assert (run.rows, run.malformed_lines) == (50, 0)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "train.log").write_bytes(log(999).replace("\n", "\r\n").encode(encoding))
    found = list(sources.discover([tmp_path / "sub"]))
    assert found == [tmp_path / "sub" / "train.log"]
    assert only(tmp_path / "sub" / "train.log").rows == 50


def test_empty_files_are_no_word_of_the_training(tmp_path):
    for name in ("metrics.json", "log.txt"):
        (tmp_path / name).write_bytes(b"")
    text = refused(tmp_path)
    assert "its files are empty (metrics.json, log.txt)" in text
    assert "20 iterations" not in text


def test_an_empty_metrics_file_beside_a_whole_log_does_not_tell_of_a_failed_start(tmp_path):
    (tmp_path / "metrics.json").write_bytes(b"")
    (tmp_path / "log.txt").write_text(log(999))
    (event,) = [event for event in only(tmp_path).events if event.kind == "unreadable"]
    assert event.message.endswith("metrics.json is empty; what follows is from log.txt")


def test_what_the_scheduler_alone_kept_is_the_end_of_the_only_run(tmp_path):
    (tmp_path / "log.txt").write_text(log(499))
    (tmp_path / "job.err").write_text(
        "/env/torch/functional.py:445: UserWarning: torch.meshgrid\n"
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.0. Some of your processes may "
        "have been killed by the cgroup out-of-memory handler.\n"
    )
    run = only(tmp_path)
    assert (run.ending.kind, run.ending.read_from) == (EndingKind.KILLED, "job.err:2")


def test_a_link_is_told_for_where_it_leads(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "metrics.json").write_text(ROWS)
    (folder / "loop.log").symlink_to(folder / "loop.log")
    (folder / "gone.log").symlink_to(folder / "nowhere")
    (tmp_path / "other.log").write_text(log(99))
    (folder / "out.log").symlink_to(tmp_path / "other.log")
    texts = {
        (event.read_from or "").rpartition("/")[2]: event.message
        for event in only(folder).events
        if event.kind == "unreadable"
    }
    assert "leads to itself" in texts["loop.log"]
    assert "leads nowhere" in texts["gone.log"]
    assert "leads out of the folder" in texts["out.log"]


def test_a_packed_metrics_file_that_was_cut_goes_on_by_the_events(tmp_path):
    packed = gzip.compress(ROWS.encode())
    (tmp_path / "metrics.json.gz").write_bytes(packed[: len(packed) // 2])
    write_events(tmp_path, 999)
    run = only(tmp_path)
    assert run.series["time"].iterations.tolist() == list(range(19, 1000, 20))
    assert {"damaged", "filled"} <= {event.kind for event in run.events}


def test_capital_letters_of_another_file_system_hide_nothing(tmp_path):
    (tmp_path / "METRICS.JSON").write_text(ROWS)
    (tmp_path / "Train.LOG").write_text(log(99))
    assert len(list(sources.discover([tmp_path]))) == 2


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_of_packed_files_is_read_with_its_config(tmp_path, whole):
    config = b"VERSION: 2\nSOLVER: {BASE_LR: 0.01, WARMUP_ITERS: 0, STEPS: [], MAX_ITER: 1000}\n"
    files = {"metrics.json": ROWS.encode(), "log.txt": log(999).encode(), "config.yaml": config}
    for name, data in files.items():
        packed = gzip.compress(data)
        (tmp_path / f"{name}.gz").write_bytes(packed if whole else packed[:-8])
    run = only(tmp_path)
    assert run.rows == 50
    assert (run.planned_iterations == 1000) == whole
    assert whole or "config.yaml.gz cannot be unpacked" in run.absent["config"]
