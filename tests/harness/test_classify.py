from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2check.harness.classify import Evidence, classify, crash_kind, traceback_of
from d2check.model import EndingKind

K = EndingKind

LOSS_NAN = "Loss became infinite or NaN at iteration=12!\nloss_dict = {'loss_cls': nan}"
BOXES_NAN = "Predicted boxes or scores contain Inf/NaN. Training has diverged."
CUDA_OOM = "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 7.79 GiB total capacity)"


def crashed(error=None, message=None, **rest):
    return {"t": "end", "kind": "crashed", "i": 7, "error": error, "message": message, **rest}


@pytest.mark.parametrize(
    ("error", "message", "kind"),
    [
        ("FloatingPointError", LOSS_NAN, K.NON_FINITE),
        ("FloatingPointError", BOXES_NAN, K.NON_FINITE),
        ("AssertionError", "Box tensor contains infinite or NaN!", K.NON_FINITE),
        ("ValueError", "matrix contains invalid numeric entries", K.NON_FINITE),
        ("RuntimeError", CUDA_OOM, K.OUT_OF_MEMORY),
        ("torch.cuda.OutOfMemoryError", CUDA_OOM, K.OUT_OF_MEMORY),
        ("torch.OutOfMemoryError", None, K.OUT_OF_MEMORY),
        ("RuntimeError", "CUDA error: out of memory", K.OUT_OF_MEMORY),
        ("RuntimeError", "CUDA driver error: out of memory", K.OUT_OF_MEMORY),
        ("torch.AcceleratorError", "CUDA error: out of memory", K.OUT_OF_MEMORY),
        ("RuntimeError", "CUDA ran out of memory outside PyTorch's allocator.", K.OUT_OF_MEMORY),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", K.OUT_OF_MEMORY),
        ("RuntimeError", "MPS backend out of memory (MPS allocated: 5.0 GB)", K.OUT_OF_MEMORY),
        ("torch.distributed.DistBackendError", "Cuda failure 2 'out of memory'", K.OUT_OF_MEMORY),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", K.CRASHED),
        ("RuntimeError", "DefaultCPUAllocator: can't allocate memory: you tried", K.OUT_OF_MEMORY),
        ("MemoryError", None, K.OUT_OF_MEMORY),
        ("AssertionError", "Annotations from 'instances' are empty", K.CRASHED),
        ("RuntimeError", "CUDA error: device-side assert triggered", K.CRASHED),
        ("KeyError", "'nanometres'", K.CRASHED),
        (None, None, K.CRASHED),
    ],
)
def test_kind_of_a_crash_follows_class_and_words(error, message, kind):
    assert crash_kind(error, message) is kind


@pytest.mark.parametrize(
    ("evidence", "kind"),
    [
        (Evidence(end=crashed("E", LOSS_NAN), exit_status=1), K.NON_FINITE),
        (Evidence(end=crashed("E", "x"), interrupted=True), K.INTERRUPTED),
        (Evidence(end={"kind": "stopped", "i": 9}, exit_status=0), K.STOPPED),
        (Evidence(end={"kind": "finished", "i": 9}, exit_status=0), K.FINISHED),
        (Evidence(end={"kind": "stopped", "i": 9}, hung="did not leave"), K.STOPPED),
        (Evidence(hung="no iteration ended", signal_name="SIGABRT"), K.HUNG),
        (Evidence(over_budget=True, signal_name="SIGTERM"), K.STOPPED),
        (Evidence(signal_name="SIGKILL"), K.KILLED),
        (Evidence(end={"kind": "interrupted", "i": 3}, exit_status=0), K.KILLED),
        (Evidence(exit_status=1), K.CRASHED),
        (Evidence(exit_status=0, last_iteration=4), K.TRUNCATED),
        (Evidence(exit_status=0), K.UNKNOWN),
        (Evidence(exit_status=0, recording_failed="disk full"), K.TRUNCATED),
        (Evidence(), K.UNKNOWN),
    ],
)
def test_what_d2check_did_weighs_more_than_how_the_child_then_died(evidence, kind):
    assert classify(evidence).kind is kind


@given(
    end=st.none()
    | st.fixed_dictionaries(
        {"t": st.just("end")},
        optional={
            "kind": st.sampled_from(["stopped", "finished", "crashed", "interrupted"]) | st.none(),
            "i": st.integers() | st.none() | st.text(),
            "error": st.none() | st.text(),
            "message": st.none() | st.text(),
            "stage": st.none() | st.text(),
            "traceback": st.none() | st.lists(st.lists(st.integers() | st.text(), max_size=5)),
        },
    ),
    status=st.none() | st.integers(0, 255),
    signal_name=st.none() | st.sampled_from(["SIGKILL", "SIGSEGV", "signal 40"]),
    interrupted=st.booleans(),
    hung=st.none() | st.just("no iteration ended"),
    stderr=st.lists(
        st.text()
        | st.sampled_from(
            ["Traceback (most recent call last):", '  File "a.py", line 1, in f', "E: x"]
        )
    ),
)
def test_every_ending_has_a_kind_and_every_failure_its_words(
    end, status, signal_name, interrupted, hung, stderr
):
    ending = classify(
        Evidence(
            end=end,
            exit_status=status,
            signal_name=signal_name,
            interrupted=interrupted,
            hung=hung,
            stderr=stderr,
        )
    )
    assert isinstance(ending.kind, EndingKind)
    assert (ending.kind is K.INTERRUPTED) == interrupted
    if ending.kind in (K.KILLED, K.HUNG, K.TRUNCATED, K.UNKNOWN, K.INTERRUPTED):
        assert ending.message


def test_crash_tells_stage_iteration_and_frames():
    frames = [["/u/train.py", 12, "main", "  trainer.train()"], ["/u/data.py", 3, "load", ""]]
    ending = classify(Evidence(end=crashed("KeyError", "'x'", stage="train", traceback=frames)))
    assert (ending.stage, ending.iteration) == ("train", 7)
    assert ending.traceback == ("/u/train.py:12 in main: trainer.train()", "/u/data.py:3 in load")


def test_iteration_is_the_last_recorded_one_when_the_end_names_none():
    ending = classify(Evidence(signal_name="SIGKILL", last_iteration=41))
    assert ending.iteration == 41


def test_sigkill_names_the_memory_when_that_is_what_the_host_says():
    ending = classify(Evidence(signal_name="SIGKILL", memory="the host ran out of memory"))
    assert ending.message == "ended by SIGKILL; the host ran out of memory"
    assert "memory ran" not in (classify(Evidence(signal_name="SIGKILL")).message or "")


def test_signal_that_the_probe_answered_is_named():
    ending = classify(Evidence(end={"kind": "interrupted", "signal": "SIGINT"}, exit_status=130))
    assert (ending.kind, ending.error) == (K.KILLED, "SIGINT")


def test_memory_is_not_blamed_for_a_segfault():
    ending = classify(Evidence(signal_name="SIGSEGV", memory="the host ran out of memory"))
    assert "host" not in (ending.message or "")


def test_bus_error_points_at_shared_memory():
    assert "/dev/shm" in (classify(Evidence(signal_name="SIGBUS")).message or "")


def test_abort_over_cuda_memory_is_out_of_memory():
    lines = ["terminate called after throwing an instance of 'c10::Error'", f"  what(): {CUDA_OOM}"]
    ending = classify(Evidence(signal_name="SIGABRT", stderr=lines))
    assert (ending.kind, ending.error) == (K.OUT_OF_MEMORY, "SIGABRT")
    assert CUDA_OOM in (ending.message or "")


def test_bad_exit_after_the_training_ended_is_told():
    ending = classify(Evidence(end={"kind": "finished", "i": 99}, exit_status=3))
    assert ending.kind is K.FINISHED
    assert ending.message == "after its training ended, its process left with status 3"


STDERR = """\
Traceback (most recent call last):
  File "/u/a.py", line 1, in first
    raise ValueError
ValueError

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/u/train.py", line 9, in <module>
    main(
    ^^^^^
  File "/u/train.py", line 5, in main
    raise my.pkg.Broken("one\\ntwo")
my.pkg.Broken: one
two
""".splitlines()


def test_last_traceback_of_stderr_is_the_one_that_ended_the_process():
    error, message, frames = traceback_of(STDERR)
    assert (error, message) == ("my.pkg.Broken", "one\ntwo")
    assert frames == (
        "/u/train.py:9 in <module>: main(",
        '/u/train.py:5 in main: raise my.pkg.Broken("one\\ntwo")',
    )


def test_stderr_without_traceback_gives_its_last_line():
    ending = classify(Evidence(exit_status=2, stderr=["usage: x", "error: no such file", ""]))
    assert ending.message == "it left with status 2: error: no such file"
    assert traceback_of(["nothing here"]) == (None, None, ())


def test_the_error_of_a_spawned_rank_is_told_and_not_the_launchers():
    end = {"kind": "crashed", "error": "ProcessRaisedException", "message": "-- Process 1 ..."}
    stderr = """Traceback (most recent call last):
  File "/home/me/train_net.py", line 40, in <module>
    launch(main, 2)
torch.multiprocessing.spawn.ProcessRaisedException:

-- Process 1 terminated with the following error:
Traceback (most recent call last):
  File "/home/me/train_net.py", line 12, in main
    register()
NameError: name 'register' is not defined
""".splitlines()
    ending = classify(Evidence(end=end, exit_status=1, stderr=stderr))
    assert (ending.error, ending.message) == ("NameError", "name 'register' is not defined")
    assert ending.traceback == ("/home/me/train_net.py:12 in main: register()",)


def test_a_rank_is_named_in_the_message():
    end = {"kind": "killed", "signal": "SIGSEGV"}
    ending = classify(Evidence(end=end, rank="rank 3 of 4", exit_status=1, last_iteration=7))
    assert ending.kind is EndingKind.KILLED
    assert (ending.error, ending.iteration) == ("SIGSEGV", 7)
    assert str(ending.message).startswith("rank 3 of 4: ended by SIGSEGV")


def test_a_loop_that_could_not_be_seen_is_neither_a_crash_nor_an_end_as_planned():
    end = {"kind": "unseen", "message": "100 steps, none of which could be seen"}
    ending = classify(Evidence(end=end, exit_status=0))
    assert (ending.kind, ending.message) == (EndingKind.UNKNOWN, end["message"])


@pytest.mark.parametrize(("count", "rest"), [(2, "0.png, 1.png"), (16, "7.png and 8 more")])
def test_a_crash_names_the_images_that_it_happened_over(count, rest):
    files = [f"/data/images/{number}.png" for number in range(count)]
    end = {
        "kind": "crashed",
        "error": "FloatingPointError",
        "message": "Loss became infinite or NaN.",
    }
    ending = classify(Evidence(end={**end, "batch_files": files}, exit_status=1))
    assert ending.kind is EndingKind.NON_FINITE
    message = ending.message or ""
    assert message.startswith("Loss became infinite or NaN; the batch was of 0.png, 1.png")
    assert message.endswith(rest)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "<urlopen error [Errno -2] Name or service not known>",
            "<urlopen error [Errno -2] Name or service not known>; "
            "it came from loading the weights detectron2://a/b.pkl",
        ),
        (
            "Checkpoint detectron2://a/b.pkl not found!",
            "Checkpoint detectron2://a/b.pkl not found!",
        ),
    ],
)
def test_weights_that_could_not_be_loaded_are_named(message, told):
    end = crashed("URLError", message, weights="detectron2://a/b.pkl")
    assert classify(Evidence(end=end, exit_status=1)).message == told


def test_a_script_that_asks_is_told_how_to_be_answered():
    ending = classify(Evidence(end=crashed("EOFError", "EOF when reading a line"), exit_status=1))
    assert "asks a question" in (ending.message or "")
    assert "echo y |" in (ending.message or "")
    other = classify(Evidence(end=crashed("EOFError", "Ran out of input"), exit_status=1))
    assert other.message == "Ran out of input"  # a torn pickle


@pytest.mark.parametrize(
    ("wanted", "own", "told"),
    [
        (
            "trainset",
            "trainSet, testSet",
            "(meant 'trainSet'?); registered are trainSet, testSet, and",
        ),
        ("birds", "wire_train", "'birds' is not registered; registered are wire_train, and"),
    ],
)
def test_of_registered_data_sets_the_users_own_are_told(wanted, own, told):
    message = (
        f"Dataset '{wanted}' is not registered! Available datasets are: coco_2014_train, "
        f"lvis_v1_val, {own}"
    )
    found = classify(Evidence(end=crashed("KeyError", message), exit_status=1)).message or ""
    assert told in found
    assert "lvis" not in found


def test_an_image_that_could_not_be_loaded_is_named_where_the_error_does_not():
    torn = crashed("OSError", "Truncated File Read", image="data/images/0005.jpg")
    message = classify(Evidence(end=torn, exit_status=1)).message
    assert message == "Truncated File Read; it was loading data/images/0005.jpg"
    gone = crashed("FileNotFoundError", "No such file: './0005.jpg'", image="data/../0005.jpg")
    assert classify(Evidence(end=gone, exit_status=1)).message == "No such file: './0005.jpg'"


def test_of_images_that_do_not_exist_the_number_is_told():
    end = crashed("FileNotFoundError", "No such file: './5.jpg'", image="5.jpg",
                  images_missing=[3, 1040])  # fmt: skip
    message = classify(Evidence(end=end, exit_status=1)).message or ""
    assert message.endswith("of 1,040 image files that were looked for 3 do not exist")
