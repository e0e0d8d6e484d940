"""Logs of every shape that Detectron2 and its forks have printed, and what terminals do to them."""

import codecs
import gzip
import math
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from d2check.errors import InputError
from d2check.model import EndingKind
from d2check.sources.log_txt import looks_like_log, parse_metric_line, read_log, read_log_bytes


def line(i, stamp="10/17 23:39:01", eta="0:15:45", logger="d2.utils.events", loss=1.5, **more):
    fields = {"total_loss": loss, "loss_cls": 0.8, "time": 0.5, "data_time": 0.01, "lr": 0.02}
    fields |= more
    text = "  ".join(f"{name}: {value}" for name, value in fields.items())
    return f"[{stamp} {logger}]:  eta: {eta}  iter: {i}  {text}  max_mem: 2283M"


def stamp(seconds):
    return f"10/17 {10 + seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def rows(last=199, first=19, every=20):
    return [line(i, stamp(i)) for i in range(first, last + 1, every)]


def message(text, level="INFO", when="10/17 10:00:00", logger="d2.engine.train_loop"):
    return f"[{when}] {logger} {level}: {text}"


def read(*lines):
    log = read_log_bytes("\n".join(lines).encode() + b"\n", "log.txt")
    assert log.counts.total == sum(text.count("\n") + 1 for text in lines)
    return log


def one(*lines):
    (segment,) = read(*lines).segments
    return segment


BEGIN = message("Rank of current process: 0. World size: 1", logger="detectron2")
START = message("Starting training from iteration 0")
TOTAL = message("Total training time: 0:01:40 (0:00:07 on hooks)", logger="d2.engine.hooks")


# --------------------------------------------------------------------------------- metric lines

SHAPES = {
    "v0.1": "eta: N/A  iter: 19  total_loss: 1.341  loss_cls: 0.847      lr: 0.000020  max_mem: 2M",
    "v0.1 with times": "eta: 0:15:45  iter: 19  total_loss: 1.341  loss_cls: 0.847  time: 0.3798  "
    "data_time: 0.0153  lr: 0.000020  max_mem: 2283M",
    "v0.1.1": " eta: 0:15:45  iter: 19  total_loss: 1.341  loss_cls: 0.847  time: 0.3798  "
    "data_time: 0.0153  lr: 0.000020  max_mem: 2283M",
    "v0.1.3": " iter: 19  total_loss: 1.341  loss_cls: 0.847  lr: 0.000020  max_mem: 2283M",
    "v0.6": " eta: 1 day, 0:15:45  iter: 19  total_loss: 1.341  loss_cls: 0.847  time: 0.3798  "
    "data_time: 0.0153  lr: 2e-05  max_mem: 2283M",
    "main": " eta: 0:15:45  iter: 19  total_loss: 1.341  loss_cls: 0.847  [metric]scale: 65536"
    "  time: 0.3798  last_time: 0.3712  data_time: 0.0153  last_data_time: 0.0012   lr: 2e-05  "
    "max_mem: 2283M",
    "on a CPU": " eta: 0:15:45  iter: 19  total_loss: 1.341  loss_cls: 0.847  time: 0.3798  "
    "data_time: 0.0153  lr: 2e-05  ",
    "one space": "eta: 0:15:45 iter: 19 total_loss: 1.341 loss_cls: 0.847 lr: 2e-05 max_mem: 2M",
    "tabs": "eta: 0:15:45\titer: 19\ttotal_loss: 1.341\tloss_cls: 0.847\tlr: 2e-05",
    "commas": "iter: 19, total_loss: 1.341, loss_cls: 0.847, lr: 2e-05",
    "fastreid": "eta: 0:15:45  epoch/iter: 0/19  total_loss: 1.341  loss_cls: 0.847  lr: 2.00e-05",
    "cvpods": "eta: 0:15:45  iter: 19/90000  total_loss: 1.341  loss_cls: 0.847  lr: 0.000020",
    "in a code fence": "`iter: 19  total_loss: 1.341  loss_cls: 0.847  lr: 2e-05  max_mem: 23M`",
}  # fmt: skip
PREFIXES = {
    "none": "",
    "console": "[10/17 23:39:01 d2.utils.events]: ",
    "file": "[10/17 23:39:01] d2.utils.events INFO: ",
    "colour": "\x1b[32m[10/17 23:39:01 d2.utils.events]: \x1b[0m",
    "lost escape": "[32m[10/17 23:39:01 d2.utils.events]: [0m",
    "caret escape": "^[[32m[10/17 23:39:01 d2.utils.events]: ^[[0m",
    "fastreid": "[10/17 23:39:01 fastreid.utils.events]: ",
    "adet": "[10/17 23:39:01] adet.trainer INFO: ",
    "logging": "2020-10-17 23:39:01,123 maskrcnn_benchmark.trainer INFO: ",
    "loguru": "2020-10-17 23:39:01.123 | INFO     | cvpods.utils.metrics:write:12 - ",
    "quoted": "> [10/17 23:39:01 d2.utils.events]: ",
    "twice quoted": "> > ",
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_printed_shape_gives_the_same_numbers(shape, prefix):
    segment = one(prefix + shape)
    assert segment.series["total_loss"].iterations.tolist() == [19]
    assert segment.series["total_loss"].values.tolist() == [1.341]
    assert segment.series["loss_cls"].values.tolist() == [0.847]
    assert segment.series["lr"].values.tolist() == [2e-05]
    assert segment.rows == 1 and segment.malformed_lines == 0


def test_each_series_says_what_its_values_summarise():
    series = one(*rows(), line(219, last_time=0.4)).series
    said = {name: (s.statistic, s.window) for name, s in series.items()}
    assert said["total_loss"] == ("median", 20)
    assert said["data_time"] == ("mean", 20)
    assert said["time"] == ("mean", 220)
    assert said["lr"] == said["last_time"] == said["max_mem"] == ("raw", 1)


def test_pairs_of_median_and_mean_keep_the_mean_of_times_and_the_median_of_losses():
    segment = one(
        "2019-05-31 07:57:47,793 maskrcnn_benchmark.trainer INFO: eta: 5 days, 22:13:05  iter: 20  "
        "loss: 2.3235 (2.9695)  loss_cls: 0.5318 (0.5656)  time: 0.7022 (0.7111)  "
        "data: 0.4336 (0.4301)  lr: 0.000833  max mem: 5004"
    )
    last = {name: (s.values[-1], s.statistic) for name, s in segment.series.items()}
    assert last["total_loss"] == (2.3235, "median")
    assert last["time"] == (0.7111, "mean")
    assert last["data_time"] == (0.4301, "mean")
    assert last["max_mem"] == (5004, "raw")
    assert last["eta_s"] == (((5 * 24 + 22) * 60 + 13) * 60 + 5, "raw")


def test_nan_and_infinite_losses_of_a_project_are_values():
    values = one(line(19, loss="nan"), line(39, loss="inf")).series["total_loss"].values
    assert math.isnan(values[0]) and math.isinf(values[1])


def test_a_rate_that_is_not_known_is_no_loss_of_the_line():
    log = read(" iter: 0    lr: N/A  max_mem: 451M")
    assert log.counts.metric == 1 and log.counts.malformed == 0


@pytest.mark.parametrize("text", ["best iter: 500", "see iter: 20", "iter: x  loss: 1", "iter: "])
def test_other_lines_about_iterations_are_not_rows(text):
    assert parse_metric_line(text.encode()) is None


# ------------------------------------------------------------------------------ damage on the way

LONG = line(19, loss_box_reg=0.4543, loss_mask=0.6906, loss_rpn_cls=0.01089, loss_rpn_loc=0.004875)


@pytest.mark.parametrize("width", [60, 72, 80, 100, 120, 150, 178, 200])
@pytest.mark.parametrize("stripped", [False, True])
def test_rows_that_a_terminal_broke_at_its_width_are_joined(width, stripped):
    lines = []
    for i in (19, 39, 59):
        text = LONG.replace("iter: 19", f"iter: {i}")
        pieces = [text[at : at + width] for at in range(0, len(text), width)]
        lines += [piece.rstrip() if stripped else piece for piece in pieces]
        lines.append("tensor = torch.as_tensor(tensor)")
    segment = one(*lines)
    whole = one(*[LONG.replace("iter: 19", f"iter: {i}") for i in (19, 39, 59)])
    assert {n: s.values.tolist() for n, s in segment.series.items()} == {
        n: s.values.tolist() for n, s in whole.series.items()
    }


def test_windows_line_ends_and_a_byte_order_mark_change_nothing():
    data = b"\xef\xbb\xbf" + "\r\n".join([START, *rows()]).encode() + b"\r\n"
    (segment,) = read_log_bytes(data).segments
    assert segment.rows == 10 and segment.first_line == 1


def test_a_log_that_powershell_redirected_is_read():
    (segment,) = read_log_bytes("\r\n".join(rows()).encode("utf-16")).segments
    assert segment.rows == 10


def test_nul_bytes_are_counted_and_what_stands_behind_them_is_read():
    log = read_log_bytes("\n".join([*rows(99), "\0" * 500 + BEGIN, START, *rows(59)]).encode())
    assert [s.rows for s in log.segments] == [5, 3]
    assert log.counts.malformed == 1
    assert log.segments[1].facts["world_size"] == 1


def test_a_last_line_that_was_cut_is_lost_and_counted():
    text = "\n".join(rows())
    log = read_log_bytes((text + "\n" + line(219)[:70]).encode())
    assert log.counts.malformed == 1
    assert log.segments[0].last_training == 199


def test_wherever_the_last_line_was_cut_no_wrong_number_is_read():
    whole = one(*rows(), LONG.replace("iter: 19", "iter: 219")).series
    cut = LONG.replace("iter: 19", "iter: 219")
    for size in range(len(cut)):
        log = read_log_bytes("\n".join([*rows(), cut[:size]]).encode())
        for name, series in log.segments[0].series.items():
            if series.iterations[-1] == 219:
                assert series.values[-1] == whole[name].values[-1], (size, name)


def test_a_packed_log_is_unpacked(tmp_path):
    path = tmp_path / "log.txt.gz"
    path.write_bytes(gzip.compress("\n".join(rows()).encode()))
    assert read_log(path).segments[0].rows == 10
    path.write_bytes(path.read_bytes()[:-40])
    assert read_log(path).segments[0].rows > 0


def test_files_that_are_no_log_are_refused(tmp_path):
    path = tmp_path / "log.txt"
    for content, words in ((b"", "empty"), (b"hello\nworld\n", "none of its 2 lines")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=words):
            read_log(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_log(tmp_path / "absent.txt")
    assert not looks_like_log(b"hello") and looks_like_log(BEGIN.encode())


# ------------------------------------------------------------------------------- starts and clocks


def test_a_second_run_in_the_same_file_is_split_off():
    log = read(BEGIN, START, *rows(99), BEGIN, START, *rows(59))
    assert [s.last_training for s in log.segments] == [99, 59]


def test_pasted_rows_without_any_message_are_split_where_they_go_back():
    assert [s.rows for s in read(*rows(99), *rows(59)).segments] == [5, 3]


def test_a_resume_goes_on_in_the_same_training():
    resume = message("Starting training from iteration 100")
    segment = one(BEGIN, START, *rows(99), BEGIN, resume, *rows(199, first=119))
    assert segment.rows == 10 and segment.start_iteration == 0
    assert [e.message for e in segment.events if e.kind == "resume"] == ["resumed at iteration 100"]


def test_a_resume_behind_the_last_row_is_a_training_of_its_own():
    resume = message("Starting training from iteration 60")
    log = read(BEGIN, START, *rows(99), BEGIN, resume, *rows(199, first=79))
    assert [s.start_iteration for s in log.segments] == [0, 60]


def test_two_trainings_of_one_notebook_are_told_apart():
    setup = message("Removed 5 images with no usable annotations. 95 images left.")
    again = message("Removed 0 images with no usable annotations. 50 images left.")
    log = read(setup, START, *rows(99), TOTAL, again, START, *rows(99))
    assert [s.facts["images"] for s in log.segments] == [95, 50]


def test_the_same_row_of_a_second_rank_is_dropped_and_told():
    doubled = [text for row in rows() for text in (row, row)]
    segment = one(*doubled)
    assert segment.rows == 10
    assert [e.kind for e in segment.events] == ["second-writer"]


def test_a_start_that_never_trained_is_an_event():
    log = read(BEGIN, BEGIN, START, *rows())
    assert [e.message for e in log.segments[0].events] == ["1 start that never came to train"]


def test_wall_clock_counts_from_the_start_of_the_loop():
    begin = message("Starting training from iteration 0", when="10/17 10:00:00")
    wall = one(begin, *rows()).series["wall_s"]
    assert wall.values.tolist() == [float(i) for i in range(19, 200, 20)]


@pytest.mark.parametrize(
    ("stamps", "seconds"),
    [
        (("12/31 23:59:50", "01/01 00:00:10"), 20),
        (("02/28 23:59:50", "03/01 00:00:10"), 20),
        (("02/28 23:59:50", "02/29 00:00:10", "03/01 00:00:10"), 86_420),
        (("12/31 23:59:50", "01/01 00:00:10", "12/31 23:59:55", "01/01 00:00:20"), 30),
    ],
)
def test_the_clock_goes_on_over_new_year_and_leap_days(stamps, seconds):
    wall = one(*[line(19 + 20 * n, s) for n, s in enumerate(stamps)]).series["wall_s"].values
    assert wall[-1] == seconds


def test_stamps_with_a_year_are_read_to_the_millisecond():
    text = "2020-12-31 23:59:59,{} d2 INFO: iter: {}  total_loss: 1  lr: 0.1"
    assert one(text.format(250, 19), text.format(750, 39)).series["wall_s"].values[-1] == 0.5


# ----------------------------------------------------------------------------------------- facts

ENVIRONMENT = """\
[10/17 10:00:00] detectron2 INFO: Environment info:
----------------------  -----------------------------------------------
sys.platform            linux
Python                  3.8.10 (default, Nov 26 2021, 20:14:08) [GCC 9.3.0]
detectron2              0.6 @/home/user/detectron2
PyTorch                 1.10.1+cu113 @/usr/lib/python3/site-packages/torch
GPU available           Yes
GPU 0,1,2               NVIDIA A100-SXM4-40GB (arch=8.0)
GPU 3                   NVIDIA A100-PCIE (arch=8.0)
----------------------  -----------------------------------------------
PyTorch built with:
  - CUDA Runtime 11.3
"""


def test_versions_and_gpus_come_from_the_environment_table():
    facts = one(BEGIN, *ENVIRONMENT.splitlines(), START, *rows()).facts
    assert facts["python"] == "3.8.10"
    assert (facts["detectron2"], facts["torch"], facts["cuda"]) == ("0.6", "1.10.1+cu113", "11.3")
    assert (facts["gpu_name"], facts["gpus"]) == ("NVIDIA A100-SXM4-40GB", 4)


def test_images_classes_and_instances_come_from_the_training_set_alone():
    table = """\
[10/17 10:00:01] d2.data.build INFO: Distribution of instances among all 3 categories:
|   category    | #instances   |   category   | #instances   |
|:-------------:|:-------------|:------------:|:-------------|
|    person     | 257          |   bicycle    | 7            |
|  baseball g.. | 3            |              |              |
|     total     | 267          |              |              |"""
    segment = one(
        BEGIN,
        message("Removed 1021 images with no usable annotations. 117266 images left."),
        *table.splitlines(),
        message("Using training sampler TrainingSampler"),
        message("Serializing 117266 elements to byte tensors and concatenating them all ..."),
        START,
        *rows(),
        message("Distribution of instances among all 9 categories:"),
        message("Serializing 5000 elements to byte tensors and concatenating them all ..."),
    )
    assert segment.facts["images"] == 117_266
    assert segment.facts["images_before_filter"] == 118_287
    assert segment.facts["classes"] == 3
    assert segment.facts["instances"] == 267
    assert segment.class_instances == {"person": 257, "bicycle": 7, "baseball g..": 3}


def test_without_a_filter_the_packed_training_set_tells_the_images():
    facts = one(
        message("Using training sampler RepeatFactorTrainingSampler"),
        message("Serializing 1853 elements to byte tensors and concatenating them all ..."),
        START,
        *rows(),
    ).facts
    assert (facts["images"], facts["sampler"]) == (1853, "RepeatFactorTrainingSampler")


def test_skipped_and_missing_weights_are_named_one_by_one():
    segment = one(
        message("[Checkpointer] Loading from R-50.pkl ..."),
        message(
            "Skip loading parameter 'roi_heads.box_predictor.cls_score.weight' to the model due to "
            "incompatible shapes: (81, 1024) in the checkpoint but (8, 1024) in the model!",
            "WARNING",
        ),
        message("Some model parameters or buffers are not found in the checkpoint:", "WARNING"),
        "\x1b[34mbackbone.fpn_lateral2.{bias, weight}\x1b[0m",
        "\x1b[34mroi_heads.mask_head.deconv.weight\x1b[0m",
        START,
        *rows(),
    )
    told = {e.kind: e.message for e in segment.events}
    assert told["skipped-weights"] == "roi_heads.box_predictor.cls_score.weight"
    assert told["missing-weights"] == (
        "backbone.fpn_lateral2.bias, backbone.fpn_lateral2.weight, "
        "roi_heads.mask_head.deconv.weight"
    )
    assert segment.facts["weights"] == "R-50.pkl"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("No checkpoint found. Initializing model from scratch", "from-scratch"),
        ("SOLVER.STEPS contains values larger than SOLVER.MAX_ITER. These values will be ignored.",
         "steps-beyond-end"),
        ("Auto-scaling the config to batch_size=4, learning_rate=0.005, max_iter=360000, "
         "warmup=4000.", "auto-scaled"),
        ("Attempting to copy inputs of <function pairwise_iou at 0x7f> to CPU due to CUDA OOM",
         "oom"),
        ("Using previously cached COCO format annotations at 'out/x_coco_format.json'. You need to "
         "clear the cache file if your dataset has been modified.", "stale-cache"),
        ("Category ids in annotations are not in [1, #categories]! We'll apply a mapping for you.",
         "category-ids"),
    ],
)  # fmt: skip
def test_warnings_become_events_that_say_where(text, kind):
    events = one(message(text, "WARNING"), START, *rows()).events
    assert [(e.kind, e.read_from) for e in events] == [(kind, "log.txt:1")]


def test_auto_scaling_tells_the_length_and_the_batch():
    text = (
        "Auto-scaling the config to batch_size=4, learning_rate=0.005, max_iter=360000, warmup=4."
    )
    segment = one(BEGIN, message(text), START, *rows())
    assert segment.planned_iterations == 360_000
    assert segment.facts["images_per_batch"] == 4


def test_a_config_dump_inside_the_log_is_the_config_of_this_start():
    dump = textwrap.dedent("""\
        \x1b[38;5;197mSOLVER\x1b[39m:
          BASE_LR: 0.02
          IMS_PER_BATCH: 16
          MAX_ITER: 90000
          STEPS: (60000, 80000)
        VERSION: 2""")
    segment = one(BEGIN, message("Running with full config:"), *dump.splitlines(), START, *rows())
    assert segment.config is not None
    assert segment.config.get("SOLVER.STEPS") == [60000, 80000]
    assert segment.config.matches_run is True
    assert segment.planned_iterations == 90_000


def test_a_config_that_was_cut_is_no_config():
    broken = ["SOLVER:", "  BASE_LR: 0.02", " IMS_PER_BATCH: [16"]
    segment = one(BEGIN, message("Running with full config:"), *broken, START, *rows())
    assert segment.config is None and segment.planned_iterations is None


def test_results_of_evaluations_stand_at_the_next_row():
    parts = ("Task: bbox", "AP,AP50,AP75,APs,APm,APl", "23.5,40.1,nan,-1.0,20.0,30.0")
    table = [message(f"copypaste: {part}") for part in parts]
    segment = one(START, *rows(99), *table, *rows(199, first=119), *table)
    ap = segment.series["bbox/AP"]
    assert (ap.iterations.tolist(), ap.values.tolist()) == ([119, 200], [23.5, 23.5])
    assert ap.statistic == "raw"
    assert math.isnan(segment.series["bbox/AP75"].values[0])


# --------------------------------------------------------------------------------------- endings

TRACEBACK = """\
[10/17 10:03:20] d2.engine.train_loop ERROR: Exception during training:
Traceback (most recent call last):
  File "/opt/conda/lib/python3.8/site-packages/detectron2/engine/train_loop.py", line 149, in train
    self.run_step()
  File "/home/user/project/model.py", line 12, in forward
    raise {error}({message!r})
{error}: {message}"""
SPEED = message("Overall training speed: 203 iterations in 0:01:40 (0.5000 s / it)")


def crashed(error, words):
    text = TRACEBACK.format(error=error, message=words)
    return one(BEGIN, START, *rows(), *text.splitlines(), SPEED, TOTAL, line(205))


def test_a_crash_names_error_message_line_and_the_users_own_frame():
    ending = crashed("ValueError", "bad box").ending(1000)
    assert (ending.kind, ending.error, ending.message) == (
        EndingKind.CRASHED, "ValueError", "bad box",
    )  # fmt: skip
    assert ending.traceback == (
        "/home/user/project/model.py:12 in forward: raise ValueError('bad box')",
    )
    assert (ending.iteration, ending.stage, ending.read_from) == (205, "train", "log.txt:14")


def test_the_row_that_is_printed_after_a_traceback_is_stale_and_dropped():
    segment = crashed("ValueError", "bad box")
    assert segment.last_training == 199
    assert [e.kind for e in segment.events] == ["stale-row"]


def test_a_loss_that_is_not_finite_is_named():
    words = "Loss became infinite or NaN at iteration=205!\nloss_dict = {'loss_cls': nan, 'a': 0.5}"
    segment = crashed("FloatingPointError", words)
    ending = segment.ending(None)
    assert ending.kind == EndingKind.NON_FINITE
    assert ending.message is not None and "iteration=205" in ending.message
    assert ("non-finite-losses", "loss_cls is nan") in [(e.kind, e.message) for e in segment.events]


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 1000.00 MiB (GPU 0; 47.53 GiB total capacity; "
        "39.30 GiB already allocated; 860.44 MiB free; 45.23 GiB reserved in total by PyTorch)",
        "CUDA out of memory. Tried to allocate 1000.00 MiB. GPU 0 has a total capacity of "
        "47.53 GiB of which 860.44 MiB is free. Of the allocated memory 39.30 GiB is allocated by "
        "PyTorch",
    ],
)
def test_out_of_memory_tells_its_numbers(words):
    segment = crashed("torch.cuda.OutOfMemoryError", words)
    assert segment.ending(None).kind == EndingKind.OUT_OF_MEMORY
    assert segment.facts["gpu_total_mib"] == pytest.approx(47.53 * 1024, abs=0.1)
    assert segment.facts["oom_tried_mib"] == 1000
    assert segment.facts["oom_free_mib"] == 860.44
    assert segment.facts["oom_allocated_mib"] == pytest.approx(39.30 * 1024, abs=0.1)
    assert [e.kind for e in segment.events] == ["stale-row", "oom"]


def test_an_error_of_a_loader_worker_is_told_in_the_workers_words():
    text = """\
[10/17 10:03:20] d2.engine.train_loop ERROR: Exception during training:
Traceback (most recent call last):
  File "/lib/python3.8/site-packages/detectron2/engine/train_loop.py", line 149, in train
    self.run_step()
FileNotFoundError: Caught FileNotFoundError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "/home/user/mapper.py", line 9, in __call__
    image = read(path)
FileNotFoundError: [Errno 2] No such file or directory: 'a.jpg'
"""
    ending = one(BEGIN, START, *rows(), *text.splitlines(), TOTAL).ending(None)
    assert ending.message == "[Errno 2] No such file or directory: 'a.jpg'"
    assert ending.traceback == ("/home/user/mapper.py:9 in __call__: image = read(path)",)


def test_the_error_of_a_spawned_rank_is_told_in_its_words():
    text = """\
Traceback (most recent call last):
  File "train_net.py", line 170, in <module>
    launch(main, args.num_gpus)
torch.multiprocessing.spawn.ProcessRaisedException:

-- Process 1 terminated with the following error:
Traceback (most recent call last):
  File "/home/user/train_net.py", line 100, in main
    raise ValueError("x")
ValueError: x"""
    ending = one(*rows(), *text.splitlines()).ending(None)
    assert (ending.error, ending.message) == ("ValueError", "x")


def test_a_traceback_that_the_training_survived_is_no_ending():
    text = TRACEBACK.format(error="ConnectionError", message="tracker").splitlines()[1:]
    segment = one(START, *rows(99), *text, *rows(199, first=119))
    assert segment.ending(1000).kind == EndingKind.TRUNCATED
    assert [e.kind for e in segment.events] == ["exception-survived"]


def test_a_training_that_reached_its_length_is_finished():
    segment = one(BEGIN, START, *rows(), message("Overall training speed: 198 iterations in "
                  "0:01:40 (0.5000 s / it)"), TOTAL)  # fmt: skip
    assert segment.ending(200).kind == EndingKind.FINISHED
    assert segment.ending(200).read_from == "log.txt:14"
    assert segment.ending(300).kind == EndingKind.TRUNCATED


def test_a_crash_in_the_evaluation_behind_the_last_iteration_is_told_as_such():
    text = TRACEBACK.format(error="KeyError", message="'x'").splitlines()[1:]
    segment = one(START, *rows(), SPEED.replace("203", "198"), TOTAL, *text)
    assert segment.ending(200).kind == EndingKind.FINISHED


def test_a_loop_that_was_left_without_a_word_is_not_called_a_crash():
    ending = one(BEGIN, START, *rows(), SPEED, TOTAL, line(205)).ending(1000)
    assert ending.kind == EndingKind.TRUNCATED
    assert ending.message is not None and "Ctrl-C, or an early stop" in ending.message


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        ("Killed", "SIGKILL"),
        ("train.sh: line 3: 12345 Killed                  python train_net.py", "SIGKILL"),
        ("slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2022-01-01 DUE TO TIME LIMIT ***", None),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in step 1.batch cgroup.", None),
        ("srun: error: n1: task 0: Out Of Memory", None),
        ("Segmentation fault (core dumped)", "SIGSEGV"),
    ],
)
def test_words_of_the_shell_and_the_scheduler_mean_killed(text, signal):
    ending = one(START, *rows(), text).ending(1000)
    assert (ending.kind, ending.error) == (EndingKind.KILLED, signal)
    assert ending.message == text and ending.read_from == "log.txt:12"


def test_a_launcher_that_tells_of_a_signal_means_killed():
    text = """\
Traceback (most recent call last):
  File "/lib/python3.9/site-packages/torch/distributed/run.py", line 723, in main
    run(args)
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
=====================================================
train_net.py FAILED
Root Cause (first observed failure):
[0]:
  exitcode  : -9 (pid: 4242)
  traceback : Signal 9 (SIGKILL) received by PID 4242"""
    ending = one(START, *rows(), *text.splitlines()).ending(1000)
    assert (ending.kind, ending.error) == (EndingKind.KILLED, "SIGKILL")


@pytest.mark.parametrize(
    "label",
    ["[rank0]: ", "[1,0]<stderr>:", "(train pid=4242) ", "0: ", "2023-01-01T00:00:00.123Z ",
     "2023-01-01T00:00:00.123456789Z stderr F "],
)  # fmt: skip
def test_labels_that_launchers_put_before_each_line_hide_nothing(label):
    text = TRACEBACK.format(error="ValueError", message="bad box").splitlines()
    segment = one(*[label + line for line in (BEGIN, START, *rows(), *text, TOTAL)])
    ending = segment.ending(1000)
    assert (ending.error, ending.message, segment.rows) == ("ValueError", "bad box", 10)
    assert segment.facts["world_size"] == 1


def test_an_assertion_over_a_loss_dict_with_nan_is_not_finite():
    words = "{'loss_cls': tensor(nan, device='cuda:0'), 'loss_mask': tensor(0.1)}"
    segment = crashed("AssertionError", words)
    assert segment.ending(None).kind == EndingKind.NON_FINITE
    assert "loss_cls is nan" in [e.message for e in segment.events]


def test_output_cells_of_a_notebook_file_are_read():
    cells = [f'      "\\u001b[32m{text}\\n",' for text in rows()]
    segment = one('{"cells": [', *cells, "]}")
    assert segment.rows == 10
    assert segment.series["max_mem"].values[-1] == 2283


def test_ctrl_c_is_an_interruption():
    text = TRACEBACK.format(error="KeyboardInterrupt", message="").splitlines()[1:-1]
    ending = one(START, *rows(), *text, "KeyboardInterrupt").ending(1000)
    assert ending.kind == EndingKind.INTERRUPTED


def test_a_killed_loader_worker_is_an_event():
    words = "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that ..."
    segment = crashed("RuntimeError", words)
    assert segment.ending(None).kind == EndingKind.CRASHED
    assert [e.kind for e in segment.events] == ["stale-row", "worker-killed"]


def test_a_log_that_just_stops_is_truncated():
    ending = one(BEGIN, START, *rows()).ending(1000)
    assert (ending.kind, ending.iteration) == (EndingKind.TRUNCATED, 199)


# ------------------------------------------------------------------------------ real logs

LOGS = Path(__file__).parents[1] / "runs" / "logs"
# file -> rows, last iteration, planned by its eta, ending and its line; checked by hand
GOLD = {
    "broken-at-178-columns.txt": (10, 199, 200, EndingKind.FINISHED, 54),
    "coloured-notebook.txt": (25, 499, 500, EndingKind.FINISHED, 61),
    "ctrl-c.txt": (2, 179, 9995, EndingKind.INTERRUPTED, 11),
    "diverged-in-the-proposals.txt": (12, 239, 187309, EndingKind.NON_FINITE, 38),
    "last-times-of-main.txt": (1, 19, 79418, EndingKind.TRUNCATED, 50),
    "loader-worker-crash.txt": (0, None, None, EndingKind.CRASHED, 45),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLD)
def test_excerpts_of_real_logs_read_as_a_person_reads_them(name):
    (segment,) = read_log(LOGS / name).segments
    ending = segment.ending(None)
    assert (segment.rows, segment.last_training, segment.planned_about) == GOLD[name][:3]
    assert (ending.kind, ending.read_from) == (GOLD[name][3], f"{name}:{GOLD[name][4]}")
    assert segment.malformed_lines == 0


def test_a_real_capture_of_178_columns_gives_every_number():
    (segment,) = read_log(LOGS / "broken-at-178-columns.txt").segments
    numbers = {n: s.values[0] for n, s in segment.series.items() if s.iterations[0] == 19}
    assert numbers["rg_l1_loss_2"] == 0.05858
    assert numbers["focal_loss_0"] == 0.1465
    assert (numbers["time"], numbers["lr"], numbers["max_mem"]) == (0.8395, 0.00076124, 3242)
    assert len([n for n in numbers if "loss" in n]) == 23
    assert segment.facts["oom_reserved_mib"] == pytest.approx(13.06 * 1024, abs=0.1)
    assert [e.kind for e in segment.events] == ["oom", "crashed-afterwards"]


# ------------------------------------------------------------------------------------- everything

NAMES = st.sampled_from(["loss_cls", "loss_box_reg", "loss_mask", "loss_[a]/b", "aux_loss_0"])
NUMBERS = st.floats(0, 1e6, allow_nan=False).map(lambda x: float(f"{x:.4g}"))


@given(
    st.lists(st.integers(0, 10**7), min_size=1, max_size=30, unique=True).map(sorted),
    st.dictionaries(NAMES, NUMBERS, min_size=1),
    st.sampled_from(list(PREFIXES.values())),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_what_is_printed_reads_back_equal(iterations, losses, prefix, is_main):
    def text(i):
        fields = "  ".join(f"{name}: {value:.4g}" for name, value in losses.items())
        last = "last_time: 0.5000  " if is_main else ""
        head = f"{prefix} eta: 0:01:00  iter: {i}  total_loss: 1"
        return f"{head}  {fields}  {last} lr: 0.01  max_mem: 5M"

    series = one(*map(text, iterations)).series
    for name, value in losses.items():
        assert series[name].iterations.tolist() == iterations
        assert np.all(series[name].values == value)


FRAGMENTS = st.sampled_from(
    [b"iter: ", b"eta: 1:00:00  ", b"total_loss: 1.5  ", b"lr: 0.1", b"[10/17 10:00:00] d2 INFO: ",
     b"Traceback (most recent call last):", b"Starting training from iteration 3", b"\n", b"\r",
     b"\0", b"\x1b[32m", b"> ", b"Killed", b"Rank of current process: 0. World size: 1", b"19  ",
     b"Running with full config:", b"copypaste: 1,2", b'  File "a", line 1, in f', b"ValueError: x",
     b"max_mem: 5M", b"\xff\xfe", b"Total training time: 0:00:01 (0:00:00 on hooks)"]
)  # fmt: skip


@given(st.lists(FRAGMENTS | st.binary(max_size=20), max_size=40).map(b"".join))
@example(codecs.BOM_UTF8)
@example(codecs.BOM_UTF8 + b"\n")
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_read_and_every_line_is_counted_once(data):
    log = read_log_bytes(data)
    for segment in log.segments:
        segment.ending(None)
        segment.ending(100)
        for series in segment.series.values():
            assert np.all(np.diff(series.iterations) > 0)
    if data[:2] not in (b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b"):
        text = data.removeprefix(codecs.BOM_UTF8)  # a mark of the encoding is no line
        assert log.counts.total == text.count(b"\n") + (text[-1:] not in (b"", b"\n"))
    assert min(vars(log.counts).values(), default=0) >= 0


def test_what_is_lost_of_a_damaged_packed_log_is_told(tmp_path):
    whole = gzip.compress("\n".join(rows(3999)).encode())
    path = tmp_path / "log.txt.gz"
    path.write_bytes(whole[: len(whole) // 2])
    last = read_log(path).segments[-1]
    assert 10 < last.rows < 200
    assert [e.kind for e in last.events] == ["damaged"]
    assert "it ends early" in last.events[0].message
    path.write_bytes(whole[:12])
    with pytest.raises(InputError, match="cannot be unpacked"):
        read_log(path)


def test_a_start_of_which_only_the_last_row_was_printed_did_train():
    """A fork that never says that it starts, stopped before its first row was due."""
    speed = message("Overall training speed: 8 iterations in 0:00:09 (1.2 s / it)")
    segment = one(BEGIN, speed, TOTAL, line(10, "10/17 10:00:09"))
    assert segment.rows == 0 and segment.ending(None).iteration == 10
