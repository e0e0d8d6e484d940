import json
import os
import subprocess
import sys

import pytest

ROWS = "".join(
    json.dumps(
        {
            "iteration": 19 + 20 * i,
            "total_loss": 3 * 0.98**i,
            "lr": 0.005,
            "time": 0.1,
            "data_time": 0.08,
        }
    )
    + "\n"
    for i in range(60)
)


@pytest.fixture
def output(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "metrics.json").write_text(ROWS)
    return folder


def test_a_folder_and_its_file_are_judged_alike(d2check, output):
    by_folder, by_file = d2check("audit", output), d2check("audit", output / "metrics.json")
    assert by_folder.code == by_file.code == 1
    assert "FAIL  time/data-bound" in by_folder.out
    assert "FAIL  time/data-bound" in by_file.out


def test_one_unreadable_path_stops_nothing_and_is_exit_1(d2check, output, tmp_path):
    (tmp_path / "empty.json").write_text("")
    ran = d2check("audit", output, tmp_path / "empty.json", "-k", "ending or lr")
    assert ran.code == 1
    assert "could not be read" in ran.out
    assert "empty.json" in ran.out


def test_only_unreadable_paths_are_a_usage_error(d2check, tmp_path):
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)) * 40)
    ran = d2check("audit", "noise.bin", "nowhere")
    assert ran.code == 4
    assert "noise.bin" in ran.out + ran.err
    assert "nowhere" in ran.out + ran.err
    assert "Traceback" not in ran.err


def test_reading_writes_nothing(d2check, output):
    before = sorted(output.parent.rglob("*"))
    d2check("audit", output)
    assert sorted(output.parent.rglob("*")) == before


def test_a_reader_who_leaves_early_changes_no_verdict(output, tmp_path, environment):
    command = f'"{sys.executable}" -m d2check audit out; echo code=$? >&2'
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=environment,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.stderr == "code=1\n"


def test_a_rule_file_with_three_mistakes_tells_all_three(d2check, output, tmp_path):
    folder = tmp_path / "mine" / "loss"
    folder.mkdir(parents=True)
    (folder / "odd.yaml").write_text(
        "id: loss/odd\nseverity: grave\ncheck: no_such_check\nwarm: 1\n"
    )
    ran = d2check("audit", output, "--rules", tmp_path / "mine")
    assert ran.code == 4
    assert len([line for line in ran.err.splitlines() if "odd.yaml:" in line]) >= 3


def test_colour_only_where_it_can_be_seen(d2check, output):
    assert "\x1b[" not in d2check("audit", output).out
    assert "\x1b[" in d2check("audit", output, FORCE_COLOR="1").out
    assert "\x1b[" not in d2check("audit", output, FORCE_COLOR="1", NO_COLOR="1").out


def test_an_ascii_console_gets_ascii(d2check, output):
    ran = d2check("audit", output, PYTHONUTF8="0", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert ran.code == 1
    assert ran.out.isascii()


def test_a_project_file_is_found_upwards_and_shown(d2check, output, tmp_path):
    (tmp_path / "d2check.yaml").write_text(
        "rules:\n  time/data-bound: {ignore: the disk is borrowed}\n"
    )
    ran = d2check("audit", output, "--json", "r.json")
    assert ran.code != 1
    assert "1 ignored" in ran.out
    assert "ignored: the disk is borrowed" in ran.out
    assert "note       d2check.yaml: time/data-bound is ignored: the disk is borrowed" in ran.out
    assert json.loads((tmp_path / "r.json").read_text())["notes"]


def test_a_mistake_in_the_project_file_is_told_with_its_place(d2check, output, tmp_path):
    (tmp_path / "mine.yaml").write_text("rules:\n  time/data-bond: {ignore: no}\n")
    ran = d2check("audit", output, "--project", "mine.yaml")
    assert ran.code == 4
    assert "mine.yaml:2:" in ran.err
    assert "time/data-bound" in ran.err


LOG = "[03/01 09:00:00 d2.engine.train_loop]: Starting training from iteration 0\n" + "".join(
    f"[03/01 09:00:{i:02} d2.utils.events]:  eta: 1:00:00  iter: {19 + 20 * i}  "
    f"total_loss: {3 * 0.98**i:.4g}  time: 0.1000  data_time: 0.0800  lr: 0.005  max_mem: 900M\n"
    for i in range(60)
)


@pytest.mark.parametrize("text", [ROWS, LOG], ids=["rows", "log lines"])
def test_what_is_piped_in_is_judged_as_a_file_would_be(d2check, text):
    ran = d2check("audit", "-", stdin=text)
    assert ran.code == 1
    assert "FAIL  time/data-bound" in ran.out
    assert "standard input" in ran.out
    assert ran.err == ""  # no progress in a pipe


def test_piped_text_and_paths_are_judged_together(d2check, output):
    ran = d2check("audit", "-", output, "--json", "-", stdin=LOG)
    sources = [run["source"] for run in json.loads(ran.out)["runs"]]
    assert sources == ["standard input", str(output / "metrics.json")]


def test_nothing_piped_in_says_what_to_paste(d2check):
    ran = d2check("audit", "-", stdin="")
    assert ran.code == 4
    assert "nothing came in" in ran.err
    assert "metrics.json" in ran.err


def test_piped_text_that_is_no_training_is_told_and_no_traceback(d2check):
    ran = d2check("audit", "-", stdin="lorem ipsum\n" * 40)
    assert ran.code == 4
    assert "standard input" in ran.out + ran.err
    assert "Traceback" not in ran.err
