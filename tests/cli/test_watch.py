import json
import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fdinfo"), reason="needs /proc")

# Writes as a training does: keeps the file open, and adds rows for as many words as it is told.
WRITER = """
import json, sys
file = open(sys.argv[1], "a")
print("open", flush=True)
for k, loss in enumerate(sys.stdin):
    row = {"iteration": 20 * k + 19, "total_loss": float(loss), "lr": 0.01, "time": 0.2,
           "data_time": 0.01, "eta_seconds": 0.2 * (6000 - 20 * k)}
    file.write(json.dumps(row) + "\\n")
    file.flush()
"""


@pytest.fixture
def writer(tmp_path):
    (tmp_path / "output").mkdir()
    command = [sys.executable, "-c", WRITER, str(tmp_path / "output" / "metrics.json")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as child:
        assert child.stdout.readline() == "open\n"
        yield child
        child.kill()


@pytest.fixture
def watcher(tmp_path, environment):
    started = []

    def start(*arguments):
        command = [
            sys.executable,
            "-m",
            "d2check",
            "watch",
            "output",
            "--every",
            "0.2s",
            *arguments,
        ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        child = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()


def tell(writer, losses):
    writer.stdin.write("".join(f"{loss}\n" for loss in losses))
    writer.stdin.flush()


def until(stream, words):
    """The lines of a stream up to the one that has these words."""
    lines = []
    for line in stream:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError("".join(lines))


def test_what_changes_is_told_and_the_end_brings_the_report(writer, watcher, tmp_path):
    tell(writer, [2.0, 1.9, 1.8])
    child = watcher("--json", "r.json")
    began = until(child.stderr, "iteration")
    assert began[0] == "d2check: following output; Ctrl-C ends it with the report\n"
    assert "iteration 59 of 6,0" in began[1]
    assert "not judged yet" in began[1]
    tell(writer, ["nan"])
    assert any("FAIL loss/non-finite" in line for line in until(child.stderr, "loss/non-finite"))
    writer.stdin.close()
    out, _ = child.communicate(timeout=120)
    assert child.returncode == 1
    assert "FAIL  loss/non-finite" in out
    assert json.loads((tmp_path / "r.json").read_text())["exit_code"] == 1
    assert sorted(os.listdir(tmp_path / "output")) == ["metrics.json"]  # nothing is written there


def test_ctrl_c_prints_the_last_report_and_is_exit_2(writer, watcher):
    tell(writer, [2.0, 1.9, 1.8])
    child = watcher()
    until(child.stderr, "iteration 59")
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=120)
    assert child.returncode == 2
    assert "PASS  loss/non-finite" in out


def test_a_path_that_is_not_there_is_a_usage_error(d2check):
    ran = d2check("watch", "nowhere")
    assert ran.code == 4
    assert "no such file or folder" in ran.err
