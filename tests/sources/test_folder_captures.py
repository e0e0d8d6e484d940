"""Several logs of one training are one run; what is not known to be one is left apart, and told."""

import pytest

from d2check import sources
from d2check.errors import InputError
from d2check.model import EndingKind, Run
from tests.sources.written import crash, lines, log, rows, start, write_events

OOM = (
    "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 10.76 GiB total "
    "capacity; 8.00 GiB already allocated; 1.00 GiB free; 9.00 GiB reserved in total by PyTorch)"
)
LOST_PEER = "RuntimeError: NCCL error in: ProcessGroupNCCL.cpp:784, Connection closed by peer"
STDERR = (
    'Traceback (most recent call last):\n  File "train_net.py", line 9, in <module>\n    main()\n'
    '  File "/env/site-packages/detectron2/engine/train_loop.py", line 149, in train\n'
    "    self.run_step()\nRuntimeError: DataLoader worker (pid 77) is killed by signal: Killed.\n"
)


def write(folder, **files: str):
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def only(path) -> Run:
    (run,) = sources.read(path)
    return run


def told(run: Run, kind: str) -> list[str]:
    return [event.message for event in run.events if event.kind == kind]


def iterations(run: Run) -> list[int]:
    return run.series["total_loss"].iterations.tolist()


# --------------------------------------------------------------------- copies of one console


def test_what_the_shell_said_in_another_capture_is_the_end_of_the_run(tmp_path):
    run = only(write(tmp_path, log__txt=log(399), nohup__out=log(399) + "Killed\n"))
    assert (run.ending.kind, run.ending.error) == (EndingKind.KILLED, "SIGKILL")
    assert run.ending.read_from == "nohup.out:23"
    assert told(run, "fused") == ["nohup.out shows the same training as log.txt"]
    assert run.rows == 20


def test_rows_that_only_a_capture_has_are_read(tmp_path):
    """log.txt was copied before the training ended, the job's output after."""
    finished = "[11/21 11:00:00 d2.engine.hooks]: Total training time: 0:10:00 (0:00:01 on hooks)\n"
    run = only(write(tmp_path, log__txt=log(199), train__log=log(399) + finished))
    assert iterations(run) == list(range(19, 400, 20))
    assert run.series["wall_s"].iterations.tolist() == list(range(19, 400, 20))
    assert "10 of its rows are in it alone" in told(run, "fused")[0]
    assert (run.ending.read_from or "").startswith("train.log")


def test_a_capture_that_begins_amid_the_run_is_joined_by_its_rows(tmp_path):
    late = lines(599, first=219, second=200)
    run = only(write(tmp_path, log__txt=log(399), nohup__out=late))
    assert iterations(run) == list(range(19, 600, 20))
    clock = run.series["wall_s"]
    assert clock.values.tolist() == [20.0 * k for k in range(1, 31)]


def test_an_early_crash_in_a_shorter_capture_is_not_the_end(tmp_path):
    """One job's output ends in a crash, log.txt goes on over the resume."""
    again = start(400, second=900) + lines(799, first=419, second=900)
    first = log(399) + crash()
    run = only(write(tmp_path, log__txt=first + again, job1__out=first))
    assert run.ending.kind is EndingKind.TRUNCATED
    assert iterations(run) == list(range(19, 800, 20))


def test_the_same_numbers_at_other_times_are_another_run(tmp_path):
    """With a fixed seed a second start may print the same losses."""
    runs = sources.read(write(tmp_path, log__txt=log(399), other__log=log(399, second=20_000)))
    assert [iterations(run) for run in runs] == [list(range(19, 400, 20))] * 2
    assert [run.source.rpartition("/")[2] for run in runs] == ["log.txt", "other.log"]
    assert [run.segment for run in runs] == [0, 0]


def test_each_of_two_captures_finds_its_own_run(tmp_path):
    two = log(399) + crash() + log(599, seed=50, second=9000)
    runs = sources.read(
        write(tmp_path, log__txt=two, a__out=log(399), b__out=log(599, seed=50, second=9000))
    )
    assert [len(iterations(run)) for run in runs] == [20, 30]
    assert [len(told(run, "fused")) for run in runs] == [1, 1]


def test_errors_that_a_cluster_keeps_apart_end_the_only_run(tmp_path):
    run = only(write(tmp_path, log__txt=log(399), job__err=STDERR))
    assert (run.ending.kind, run.ending.error) == (EndingKind.CRASHED, "RuntimeError")
    assert run.ending.read_from == "job.err:1"
    assert "only training" in told(run, "fused")[0]


def test_an_error_that_the_log_tells_too_is_no_second_run(tmp_path):
    error = "RuntimeError: DataLoader worker (pid 77) is killed by signal: Killed. "
    run = only(write(tmp_path, log__txt=log(399) + crash(error.strip()), job__err=STDERR))
    assert run.ending.read_from == "log.txt:24"


def test_errors_beside_two_runs_are_left_apart(tmp_path):
    two = log(399) + log(599, seed=50, second=9000)
    *runs, alone = sources.read(write(tmp_path, log__txt=two, job__err=STDERR))
    assert [run.ending.kind for run in runs] == [EndingKind.TRUNCATED] * 2
    assert alone.source.endswith("job.err")


def test_captures_of_a_run_with_metrics_tell_its_end(tmp_path):
    write(tmp_path, log__txt=log(399), nohup__out=log(399) + "Killed\n")
    (tmp_path / "metrics.json").write_text("".join(rows(399)))
    run = only(tmp_path)
    assert run.ending.kind is EndingKind.KILLED
    assert run.source.endswith("metrics.json")


# --------------------------------------------------------------------- a resume in its own log


@pytest.mark.parametrize(
    ("earlier", "later"),
    [("log.txt", "resumed.log"), ("log.txt.1", "log.txt"), ("b.out", "log.txt")],
)
def test_a_resume_in_a_log_of_its_own_is_the_same_run(tmp_path, earlier, later):
    (tmp_path / earlier).write_text(log(399))
    (tmp_path / later).write_text(log(799, first=419, second=2000) + crash(second=5000))
    run = only(tmp_path)
    assert iterations(run) == list(range(19, 800, 20))
    assert run.rows == 40
    assert "resumed at iteration 400" in told(run, "resume")
    assert told(run, "fused") == [f"{later} goes on where {earlier} ends"]
    assert run.ending.kind is EndingKind.CRASHED
    assert run.facts["world_size"] == 1


def test_three_logs_of_three_processes_are_one_run(tmp_path):
    write(tmp_path, log__txt=log(399), b__log=log(799, first=419, second=2000))
    write(tmp_path, c__log=log(999, first=819, second=4000))
    run = only(tmp_path)
    assert iterations(run) == list(range(19, 1000, 20))
    assert [event.iteration for event in run.events if event.kind == "resume"] == [400, 800]


def test_a_start_behind_a_gap_is_left_apart_and_told(tmp_path):
    later = log(799, first=519, second=2000)
    first, second = sources.read(write(tmp_path, log__txt=log(399), resumed__log=later))
    assert (len(iterations(first)), len(iterations(second))) == (20, 15)
    assert "rows are missing between" in told(second, "apart")[0]


def test_a_resume_that_repeats_iterations_is_a_run_of_its_own(tmp_path):
    """As in one file: what was thrown away is no part of what went on."""
    later = log(799, first=319, seed=3, second=2000)
    runs = sources.read(write(tmp_path, log__txt=log(399), resumed__log=later))
    assert [len(iterations(run)) for run in runs] == [20, 25]


def test_a_resume_that_two_logs_might_have_led_to_is_left_apart(tmp_path):
    write(tmp_path, log__txt=log(399), other__log=log(399, seed=50, second=500))
    write(tmp_path, resumed__log=log(799, first=419, second=2000))
    runs = sources.read(tmp_path)
    assert [len(iterations(run)) for run in runs] == [20, 20, 20]
    assert "may go on from any of" in told(runs[-1], "apart")[0]


def test_a_log_from_before_is_not_gone_on_from(tmp_path):
    """The one that starts at 400 was begun before the other one had its first row."""
    later = log(799, first=419, second=0)
    runs = sources.read(write(tmp_path, log__txt=log(399, second=9000), other__log=later))
    assert [iterations(run)[0] for run in runs] == [419, 19]


# --------------------------------------------------------------------- other ranks


def of_rank(rank: int, text: str = "", *, size: int = 3, second: int = 0) -> str:
    return start(0, rank=rank, size=size, second=second) + text


def test_the_error_of_another_rank_is_the_end_of_the_run(tmp_path):
    write(tmp_path, log__txt=log(399, size=3), log__txt__rank2=of_rank(2))
    write(tmp_path, log__txt__rank1=of_rank(1, crash(OOM, second=450)))
    run = only(tmp_path)
    assert run.ending.kind is EndingKind.OUT_OF_MEMORY
    assert (run.ending.message or "").startswith("rank 1 of 3: CUDA out of memory")
    assert run.ending.iteration == 399
    assert run.facts["oom_tried_mib"] == 2048.0
    assert told(run, "oom")[0].startswith("rank 1: ")


def test_rank_0_that_only_lost_its_peer_is_not_the_cause(tmp_path):
    write(tmp_path, log__txt=log(399, size=2) + crash(LOST_PEER, second=460))
    write(tmp_path, log__txt__rank1=of_rank(1, crash(OOM, second=450), size=2))
    assert only(tmp_path).ending.kind is EndingKind.OUT_OF_MEMORY


def test_an_error_of_rank_0_stays_where_the_others_only_lost_it(tmp_path):
    write(tmp_path, log__txt=log(399, size=2) + crash(OOM, second=450))
    write(tmp_path, log__txt__rank1=of_rank(1, crash(LOST_PEER, second=460), size=2))
    run = only(tmp_path)
    assert (run.ending.kind, run.ending.read_from) == (EndingKind.OUT_OF_MEMORY, "log.txt:24")


def test_ranks_that_waited_for_each_other_hung(tmp_path):
    error = (
        "RuntimeError: NCCL communicator was aborted on rank 1. Original reason for failure was: "
        "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(OpType=ALLREDUCE) ran for "
        "1807390 milliseconds before timing out."
    )
    write(tmp_path, log__txt=log(399, size=2))
    write(tmp_path, log__txt__rank1=of_rank(1, crash(error, second=2300), size=2))
    run = only(tmp_path)
    assert run.ending.kind is EndingKind.HUNG
    assert (run.ending.message or "").startswith("rank 1 of 2: NCCL")


@pytest.mark.parametrize("size", [1, 3])
def test_the_crash_of_an_earlier_start_is_not_that_of_the_last(tmp_path, size):
    write(tmp_path, log__txt=log(399, size=size, second=20_000))
    write(tmp_path, log__txt__rank1=of_rank(1, crash(OOM, second=450)))
    run = only(tmp_path)
    assert run.ending.kind is EndingKind.TRUNCATED
    assert "of another start" in told(run, "apart")[0]


def test_each_start_has_the_crash_of_its_own_rank(tmp_path):
    two = log(399, size=3) + log(599, size=3, seed=50, second=9000)
    ranks = of_rank(1, crash(OOM, second=450)) + of_rank(1, second=9001)
    runs = sources.read(write(tmp_path, log__txt=two, log__txt__rank1=ranks))
    assert [run.ending.kind for run in runs] == [EndingKind.OUT_OF_MEMORY, EndingKind.TRUNCATED]
    assert not any(told(run, "apart") for run in runs)


def test_logs_of_other_ranks_alone_still_tell_how_it_ended(tmp_path):
    write(tmp_path, log__txt__rank1=of_rank(1, crash(OOM)), log__txt__rank2=of_rank(2))
    assert list(sources.discover([tmp_path])) == [tmp_path]
    run = only(tmp_path)
    assert run.ending.kind is EndingKind.OUT_OF_MEMORY
    assert run.source.endswith("log.txt.rank1")


def test_logs_of_other_ranks_without_an_error_are_a_clear_error(tmp_path):
    write(tmp_path, log__txt__rank1=of_rank(1))
    with pytest.raises(InputError, match="ranks above 0"):
        sources.read(tmp_path)


def test_events_of_a_resumed_training_stay_with_its_log(tmp_path):
    write(tmp_path, log__txt=log(399), resumed__log=log(799, first=419, second=2000))
    write_events(tmp_path, 399)
    write_events(tmp_path, 799, first=419, begin_s=1_700_002_000.0, pid=2)
    runs = sources.read(tmp_path)
    assert [iterations(run) for run in runs] == [list(range(19, 800, 20))]


# --------------------------------------------------------------------- captures without a log.txt


def found_in(folder) -> list[Run]:
    return [run for path in sources.discover([folder]) for run in sources.read(path)]


def test_what_a_cluster_kept_of_two_jobs_of_one_training_is_one_run(tmp_path):
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "slurm-1.out").write_text(log(399))
    (folder / "slurm-2.out").write_text(log(799, first=419, second=2000))
    (run,) = found_in(tmp_path)
    assert iterations(run) == list(range(19, 800, 20))
    assert run.source.endswith("slurm-1.out")


def test_two_captures_of_one_console_are_one_run(tmp_path):
    write(tmp_path, nohup__out=log(399) + "Killed\n", train__log=log(399))
    (run,) = found_in(tmp_path)
    assert run.ending.kind is EndingKind.KILLED


def test_logs_of_other_trainings_in_one_folder_stay_runs_of_their_own(tmp_path):
    """A start that failed in one of them is no event of another one."""
    failed = start() + crash(second=5)
    write(tmp_path, a__log=log(399), b__log=log(599, seed=50, second=9000), c__log=failed)
    runs = {run.source.rpartition("/")[2]: run for run in found_in(tmp_path)}
    assert {name: run.rows for name, run in runs.items()} == {"a.log": 20, "b.log": 30, "c.log": 0}
    assert runs["c.log"].ending.kind is EndingKind.CRASHED
    assert not any(told(run, "failed-start") for run in runs.values())


def test_many_logs_in_one_folder_are_read_one_by_one(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.log").write_text(log(399, seed=number * 7, second=number))
    assert len(list(sources.discover([tmp_path]))) == 20


def test_the_error_of_a_script_beside_the_training_is_not_its_end(tmp_path):
    script = (
        'Traceback (most recent call last):\n  File "evaluate.py", line 9, in <module>\n'
        '    main()\n  File "/env/site-packages/detectron2/data/catalog.py", line 58, in get\n'
        "    raise KeyError\nKeyError: \"Dataset 'mine' is not registered!\"\n"
    )
    runs = sources.read(write(tmp_path, log__txt=log(399), eval__log=script))
    assert runs[0].ending.kind is EndingKind.TRUNCATED
