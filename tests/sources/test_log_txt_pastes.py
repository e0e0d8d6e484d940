"""What users paste into issues: the last line of an error, half a traceback, a quoted message.

Shortened from issues of Detectron2 and its relatives; the address stands with each.
"""

import io
from pathlib import Path

import pytest

from d2check import sources
from d2check.errors import InputError
from d2check.model import EndingKind
from d2check.sources.log_txt import read_log_bytes


def run(text):
    (found,) = sources.read_text(io.BufferedReader(io.BytesIO(text.encode())), "standard input")
    return found


# https://github.com/facebookresearch/detectron2/issues/508
NAN = """\
FloatingPointError: Loss became infinite or NaN at iteration=27!
loss_dict = {'loss_cls': tensor(nan, device='cuda:0', grad_fn=), 'loss_box_reg': tensor(0.2576)}
"""
# https://github.com/csuhan/opendet2/issues/29
NAN_IN_PROSE = """\
Runtime Error: floatingPointError: Loss became infinite or NaN at iteration=166!
loss_dict = {'loss_cls_ce': nan, 'loss_box_reg': nan, 'loss_ins_con': 0.0, 'loss_cls_up': nan}
"""
# https://github.com/facebookresearch/detectron2/issues/1563
BOLD = """\
**ERROR [06/09 11:05:25 d2.engine.train_loop]**: Exception during training:
Traceback (most recent call last):
  File "/env/lib/python3.7/site-packages/detectron2/engine/train_loop.py", line 132, in train
    self.run_step()
  File "transfer.py", line 95, in backward
    return self.call(*args, **kwargs)
**RuntimeError: CUDA out of memory.** Tried to allocate 1.71 GiB (GPU 0; 31.72 GiB total capacity; \
23.58 GiB already allocated; 1.58 GiB free; 29.08 GiB reserved in total by PyTorch)
[06/09 11:05:25 d2.engine.hooks]: Overall training speed: 22 iterations in 0:01:02 (2.8448 s / it)
"""
# https://github.com/facebookresearch/detectron2/issues/1902
HALF_A_TRACEBACK = """\
```
  File "/home/x/env/lib/python3.8/site-packages/torch/nn/modules/conv.py", line 419, in forward
    return self._conv_forward(input, self.weight)
RuntimeError: CUDA out of memory. Tried to allocate 190.00 MiB (GPU 0; 3.94 GiB total capacity; \
2.12 GiB already allocated; 171.06 MiB free; 2.22 GiB reserved in total by PyTorch)
[08/14 07:32:25 d2.engine.hooks]: Total training time: 0:00:01 (0:00:00 on hooks)
```
"""
# https://github.com/facebookresearch/detectron2/issues/2457
MEMORY_IN_PROSE = (
    "I got this problem `cuda out of memory, tried to allocate 50MiB(GPU 0; 1.96GiB totalcapacity;"
    "1.33GiB already allocated; 43.5MiB free;1.36 GiB reserved in total by Pytorch)`"
)
# https://github.com/facebookresearch/detectron2/issues/2365
NOTEBOOK = '''\
[12/10 08:38:20 d2.engine.hooks]: Total training time: 0:01:01 (0:00:00 on hooks)
[12/10 08:38:20 d2.utils.events]:  eta: 0:25:10  iter: 61  total_loss: 1.226  lr: 0.00076175

---------------------------------------------------------------------------

RuntimeError                              Traceback (most recent call last)

<ipython-input-11-159e26e6ebc2> in <module>()
      1 trainer = DefaultTrainer(cfg)
      2 trainer.resume_or_load(resume=False)
----> 3 trainer.train()

13 frames

/usr/local/lib/python3.6/dist-packages/detectron2/engine/defaults.py in train(self)
    412         """
--> 413         super().train(self.start_iter, self.max_iter)

RuntimeError: CUDA error: device-side assert triggered
'''
# https://github.com/pytorch/pytorch/issues/43455
CUT = """\
ERROR [08/22 14:35:21 d2.engine.train_loop]: Exception during training:
Traceback (most recent call last):
  File "/mnt/detectron2/engine/hooks.py", line 350, in after_step
    self._do_eval()
"""


@pytest.mark.parametrize(
    ("text", "kind", "error", "iteration"),
    [
        (NAN, EndingKind.NON_FINITE, "FloatingPointError", 27),
        (NAN_IN_PROSE, EndingKind.NON_FINITE, "FloatingPointError", 166),
        (BOLD, EndingKind.OUT_OF_MEMORY, "RuntimeError", 24),
        (HALF_A_TRACEBACK, EndingKind.OUT_OF_MEMORY, "RuntimeError", None),
        (MEMORY_IN_PROSE, EndingKind.OUT_OF_MEMORY, "RuntimeError", None),
        (NOTEBOOK, EndingKind.CRASHED, "RuntimeError", 61),
        (CUT, EndingKind.CRASHED, "Exception", None),
    ],
    ids=["nan", "nan in prose", "bold", "half", "memory in prose", "notebook", "cut"],
)
def test_a_pasted_error_is_the_ending(text, kind, error, iteration):
    ending = run(text).ending
    assert (ending.kind, ending.error, ending.iteration) == (kind, error, iteration)


def test_the_losses_of_a_pasted_error_are_told():
    assert [e.message for e in run(NAN).events if e.kind == "non-finite-losses"] == [
        "loss_cls is nan"
    ]


def test_the_numbers_of_an_error_in_prose_are_read():
    facts = run(MEMORY_IN_PROSE).facts
    assert facts["gpu_total_mib"] == 2007.04 and facts["oom_tried_mib"] == 50.0


def test_bold_marks_are_taken_off_and_stars_of_the_source_stay():
    assert run(BOLD).ending.traceback[-1].endswith("return self.call(*args, **kwargs)")
    assert run(BOLD).facts["gpu_total_mib"] == 31.72 * 1024


def test_a_notebook_names_the_users_cell():
    assert run(NOTEBOOK).ending.traceback[0].endswith("3 in <module>: trainer.train()")


def test_an_error_that_the_training_went_on_after_ends_nothing():
    row = "[11/01 20:14:15 d2.utils.events]:  eta: 5:41:49  iter: {}  total_loss: 1.7  lr: 0.003"
    found = run("\n".join([row.format(379), "KeyError: 'one of my own'", row.format(399)]))
    assert found.ending.kind is EndingKind.TRUNCATED
    assert [e.kind for e in found.events] == ["exception-survived"]


def test_where_a_paste_begins_nobody_knows_the_stage():
    assert run(MEMORY_IN_PROSE).ending.stage is None
    assert run(NAN).ending.stage == "train"


# https://github.com/facebookresearch/grid-feats-vqa/issues/14 and detectron2/issues/4068
@pytest.mark.parametrize(
    ("text", "left", "before"),
    [
        ("> Removed 963 images with no usable annotations. 102114 images left.", 102114, 103077),
        (
            'I think it is "[03/15 17:42:59 d2.data.build]: Removed 48 images with no usable '
            'annotations. 0 images left."',
            0,
            48,
        ),
        ("100%|##| 5/5 [00:01<00:00, 3.2it/s][03/15 17:42:59 d2.data.build]: Removed 1 images "
         "with no usable annotations. 7 images left.", 7, 8),
    ],
    ids=["quoted", "in prose", "behind a progress bar"],
)  # fmt: skip
def test_a_message_of_the_set_up_alone_is_judged(text, left, before):
    facts = run(text).facts
    assert (facts["images"], facts["images_before_filter"]) == (left, before)


def test_skipped_weights_alone_are_told():
    text = (
        "WARNING [03/15 17:42:59 fvcore.common.checkpoint]: Skip loading parameter "
        "'roi_heads.box_predictor.cls_score.weight' to the model due to incompatible shapes"
    )
    assert [e.kind for e in run(text).events] == ["skipped-weights"]


# https://github.com/Therock90421/DA-Ada/issues/8: copied from a terminal, with its indent
@pytest.mark.parametrize(
    ("torn", "data_time", "lr"),
    [
        ("  d                              ata_time: 0.0276  lr: 5.035e-05", 0.0276, 5.035e-05),
        ("  data_                          time: 0.0276  lr: 5.035e-05", 0.0276, 5.035e-05),
        ("                                 data_time: 0.0276  lr: 5.035e-05", 0.0276, 5.035e-05),
        ("  data_time: 0.02                              76  lr: 5.035e-05", 0.0276, 5.035e-05),
        ("  data_time: 0.0276  lr: 5.0                             35e-05", 0.0276, 5.035e-05),
    ],
)
def test_a_field_torn_by_an_indent_is_put_together(torn, data_time, lr):
    text = f"[08/25 12:23:20 d2.utils.events]:  eta: 5:33:13  iter: 499  total_loss: 11.2{torn}"
    series = run(text).series
    assert series["data_time"].values.tolist() == [data_time]
    assert series["lr"].values.tolist() == [lr]
    assert not {"d", "data_", "ata_time"} & series.keys()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2020-05-21 04:01:33,217 - mmdet - INFO - Epoch [1][19/678] lr: 0.00020, loss: 3.0",
         "MMDetection"),
        ("Epoch: [0]  [ 10/159]  eta: 0:01:07  lr: 0.000353  loss: 0.2776 (0.3383)",
         "torchvision"),
        ('json_stats: {"accuracy_cls": 1.0, "eta": "0:21:51", "iter": 55080}', "Detectron, the"),
        ("total_loss: 0.850  loss_cls: 0.848  loss_box_reg: 0.000", "no iteration"),
        ("good morning", "no training in its 1 line"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_said(text, words):
    with pytest.raises(InputError, match=words):
        run(text)


def test_a_named_file_is_read_as_what_is_pasted(tmp_path: Path):
    path = tmp_path / "error.txt"
    path.write_text(NAN)
    (found,) = sources.read(path)
    assert found.ending.iteration == 27


def test_every_line_of_a_paste_is_accounted_for():
    for text in (NAN, BOLD, HALF_A_TRACEBACK, NOTEBOOK, CUT, MEMORY_IN_PROSE):
        counts = read_log_bytes(text.encode()).counts
        assert counts.total == text.count("\n") + (not text.endswith("\n"))


def test_what_a_model_without_predictions_scored_is_told_apart_from_no_ground_truth():
    """https://github.com/facebookresearch/detectron2/issues/607"""
    said = "[01/02 15:42:27 d2.evaluation.{}]: {}"
    lines = [said.format("evaluator", "Start inference on 51 images")]
    lines += ["WARNING " + said.format("coco_evaluation", "No predictions from the model!")] * 2
    lines += [
        said.format("testing", f"copypaste: {text}")
        for text in ("Task: bbox", "AP,AP50,AP75", "-1.0000,-1.0000,-1.0000")
    ]
    found = run("\n".join(lines))
    assert found.facts["evaluations_empty"] == 1
    assert found.series["bbox/AP"].values.tolist() == [-1.0]
    assert "evaluations_empty" not in run("\n".join([lines[0], *lines[3:]])).facts


@pytest.mark.parametrize(
    "text",
    [
        # https://github.com/facebookresearch/detectron2/issues/5153: nobody set the logger up
        "WARNING:fvcore.common.checkpoint:Skip loading parameter 'backbone.res4.weight' to the "
        "model due to incompatible shapes: (256, 1024, 1, 1) in the checkpoint but (256, 256)",
        # https://github.com/facebookresearch/detectron2/issues/1745: the words before v0.2
        "Unable to load 'backbone.res4.weight' to the model due to incompatible shapes: (81,) in",
    ],
    ids=["logging's default", "v0.1"],
)
def test_weights_that_were_not_loaded_are_seen_in_other_words(text):
    (event,) = run(text).events
    assert (event.kind, event.message) == ("skipped-weights", "backbone.res4.weight")


def test_a_log_of_evaluations_alone_did_not_end_early():
    lines = [
        "[07/03 17:29:36] detectron2 INFO: Rank of current process: 0. World size: 1",
        "[07/03 17:29:37] detectron2 INFO: Running with full config:",
        "SOLVER:",
        "  MAX_ITER: 40000",
        "[07/03 17:29:40] fvcore.common.checkpoint INFO: Loading checkpoint from r101.pth",
    ]
    assert run("\n".join(lines)).ending.kind is EndingKind.UNKNOWN


def test_a_folder_whose_log_ends_in_the_set_up_points_to_the_log(tmp_path: Path):
    """Among many folders such a one is no healthy training."""
    log = tmp_path / "log.txt"
    log.write_text(
        "[08/05 09:40:12] detectron2 INFO: Rank of current process: 0. World size: 1\n"
        "[08/05 09:40:13] d2.data.build INFO: Removed 81 images with no usable annotations. "
        "151 images left.\n"
    )
    with pytest.raises(InputError, match=r"log\.txt tells of a set-up only"):
        sources.read(tmp_path)
    (found,) = sources.read(log)
    assert found.facts["images"] == 151
    assert found.ending.kind is EndingKind.UNKNOWN and not found.series


def test_a_config_dump_that_was_cut_is_no_config_of_defaults():
    """Detectron2 prints every key; what a paste leaves out has some other value."""
    lines = [
        "[07/02 15:52:48] detectron2 INFO: Running with full config:",
        "CUDNN_BENCHMARK: false",
        "DATALOADER:",
        "  NUM_WORKERS: 8",
        "INPUT:",
        "  MAX_SIZE_TRAIN: 1333",
    ]
    row = "[07/02 15:53:48] d2.utils.events INFO:  eta: 0:10:00  iter: 19  total_loss: 1.2"
    found = run("\n".join([*lines, row]))
    assert found.config is None and found.planned_iterations is None
