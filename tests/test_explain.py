"""The line that users ask about, field by field, and what more facts and rows add to it."""

import io
import math

import pytest
from click.testing import CliRunner

from d2check.cli import main
from d2check.explain import Eta, Known, Loss, Memory, Progress, Rate, Time, Total, explain
from d2check.report.explained import render, words
from d2check.sources import read_text

LINE = (
    "eta: 1:57:18  iter: 59  total_loss: 5.13  loss_cls: 3.503  loss_box_reg: 0.7651  "
    "loss_mask: 0.6906  loss_rpn_cls: 0.1066  loss_rpn_loc: 0.02927  time: 0.6917  "
    "data_time: 0.0078  lr: 1.4985e-05  max_mem: 3088M"
)
FACTS = Known(images=45_000, images_per_batch=2, gpu_total_mib=8192.0)


def explained(text=LINE, known=None):
    run = read_text(io.BufferedReader(io.BytesIO(text.encode())), "line")[-1]
    found = explain(run, known)
    assert found is not None
    return found


def reading(kind, text=LINE, known=None, name=None):
    found = [r for r in explained(text, known).readings if isinstance(r, kind)]
    (one,) = [r for r in found if name in (None, getattr(r, "name", None))]
    return one


def said(text=LINE, known=None, width=10_000):
    return render(explained(text, known), width=width)


def field(name, text=LINE, known=None):
    (one,) = [w for w in words(explained(text, known)) if w.field == name]
    return one


def test_fields_come_in_the_order_of_the_line():
    assert [w.field for w in words(explained())] == [
        "eta", "iter", "total_loss", "loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls",
        "loss_rpn_loc", "time, data_time", "lr", "max_mem",
    ]  # fmt: skip


def test_eta_gives_the_iterations_left():
    assert reading(Eta).iterations_left == 10_175
    assert "7,038 s / 0.6917 s" in field("eta").here


def test_the_length_of_the_run_comes_out_of_the_eta():
    at = reading(Progress)
    assert (at.planned, at.planned_from) == (10_235, "eta")
    assert "the 60th iteration" in field("iter").here
    assert "0.6 % of a run of about 10,235" in field("iter").here


def test_images_and_batch_give_epochs():
    at = reading(Progress, known=FACTS)
    assert at.iterations_per_epoch == 22_500
    assert at.epochs_planned == pytest.approx(0.4549, abs=1e-4)
    assert "0.45 epochs when all 10,235 are done" in field("iter", known=FACTS).here
    assert reading(Progress).epochs_planned is None


def test_parts_need_not_add_up_to_the_total():
    total = reading(Total)
    assert total.parts_sum == pytest.approx(5.0946, abs=1e-3)
    assert "add up to 5.095" in field("total_loss").here


def test_the_classifier_is_at_the_chance_level_of_32_classes():
    assert reading(Loss, name="loss_cls").classes_if_chance == 32
    here = field("loss_cls").here
    assert "ln(33) = 3.497" in here
    assert "normal at this point" in here
    assert "with more classes it is below chance already" in here


def test_with_the_number_of_classes_chance_is_decided():
    at = reading(Loss, known=Known(classes=32), name="loss_cls")
    assert at.at_chance
    assert at.chance == pytest.approx(math.log(33))
    assert not reading(Loss, known=Known(classes=80), name="loss_cls").at_chance


def test_masks_are_at_chance_and_proposals_far_below():
    assert reading(Loss, name="loss_mask").at_chance
    assert "nothing is learned yet, which is normal at this point" in field("loss_mask").here
    assert not reading(Loss, name="loss_rpn_cls").at_chance
    assert "pretrained proposal weights, or an easy task" in field("loss_rpn_cls").here


def test_masks_at_chance_late_are_not_normal():
    late = LINE.replace("iter: 59", "iter: 9000").replace("lr: 1.4985e-05", "lr: 0.00025")
    late = late.replace("eta: 1:57:18", "eta: 0:14:00")
    assert "late for that" in field("loss_mask", late).here


def test_a_rise_of_the_box_loss_is_called_no_fault():
    assert "an early rise is no fault" in field("loss_box_reg").normal


def test_the_wait_for_data_is_a_share_of_the_time():
    assert reading(Time).share == pytest.approx(0.0113, abs=1e-4)
    assert "1.1 % of the time is waiting for data: the loader keeps up" in said()
    assert "mean since the process started" in field("time, data_time").means


def test_a_starved_loader_is_named():
    assert "starves" in said(LINE.replace("data_time: 0.0078", "data_time: 0.41"))


def test_a_low_share_of_medians_clears_nothing():
    row = '{"iteration": 59, "total_loss": 1.0, "time": 0.5, "data_time": 0.001, "lr": 0.01}'
    assert "not a proof" in said(row)


def test_the_rate_is_warm_up_and_not_decay():
    rate = reading(Rate)
    first = rate.readings[0]
    assert (first.warmup, first.warmup_iters, first.warmup_factor) == ("linear", 1000, 0.001)
    assert first.peak == 0.00025
    assert rate.exact
    here = field("lr").here
    assert "warm-up, not decay: linear over 1,000 iterations to 0.00025" in here
    assert "gives the printed digits exactly" in here


def test_other_schedules_that_fit_one_row_are_named():
    rate = reading(Rate)
    assert len(rate.readings) > 1
    assert "One row cannot rule out" in field("lr").here


def test_a_second_row_rules_them_out():
    later = LINE.replace("iter: 59", "iter: 79").replace("1.4985e-05", "1.998e-05")
    assert len(reading(Rate, f"{LINE}\n{later}").readings) == 1
    assert "cannot rule out" not in field("lr", f"{LINE}\n{later}").here


def test_the_linear_rule_is_compared_when_the_batch_is_known():
    assert reading(Rate, known=FACTS).reference == pytest.approx(0.0025)
    assert "1/10 of what the linear rule gives" in field("lr", known=FACTS).watch


def test_memory_is_compared_with_the_card():
    assert reading(Memory, known=FACTS) == Memory(3088.0, 8192.0)
    assert "38 % of the card's 8 GiB" in field("max_mem", known=FACTS).here
    assert "reserved" in field("max_mem").watch


def test_focal_loss_has_no_chance_level():
    retina = "iter: 59  total_loss: 1.5  loss_cls: 1.1  loss_box_reg: 0.4  lr: 0.0001"
    assert reading(Loss, retina, name="loss_cls").kind == "focal"


def test_a_mask_loss_of_queries_is_not_taken_for_that_of_proposals():
    query = "iter: 59  total_loss: 9  loss_ce: 4  loss_mask: 0.69  loss_dice: 4  lr: 0.0001"
    mask = reading(Loss, query, name="loss_mask")
    assert (mask.kind, mask.chance, mask.at_chance) == ("query-mask", None, None)
    assert "times its weight" in field("loss_mask", query).means


def test_with_more_rows_the_change_since_the_first_is_told():
    later = LINE.replace("iter: 59", "iter: 79").replace("loss_mask: 0.6906", "loss_mask: 0.5")
    assert (
        "it fell from 0.6906 at iteration 59 to 0.5" in field("loss_mask", f"{LINE}\n{later}").here
    )


def test_a_line_without_losses_is_no_crash():
    assert reading(Rate, "iter: 0  lr: 0.02  max_mem: 5M").value == 0.02


def test_no_line_is_wider_than_asked():
    text = said(known=FACTS, width=72)
    assert max(map(len, text.splitlines())) <= 72


def test_hostile_names_cannot_reach_the_terminal():
    text = said(LINE.replace("loss_mask", "loss_\x1b]0;owned\x07mask"))
    assert "\x1b" not in text and "\x07" not in text


# --------------------------------------------------------------------------------- command line


def test_the_command_explains_a_line():
    result = CliRunner().invoke(main, ["explain", LINE, "--images", "45000", "--batch", "2",
                                       "--gpu-mem", "8GiB"], standalone_mode=False)  # fmt: skip
    assert result.exception is None, result.exception
    text = " ".join(result.output.split())  # wrapped at the width of whoever runs the tests
    assert "0.45 epochs" in text and "38 % of the card's 8 GiB" in text


def test_the_command_reads_standard_input():
    result = CliRunner().invoke(main, ["explain", "-"], input=LINE, standalone_mode=False)
    assert "about 10,235 iterations" in " ".join(result.output.split())


def test_the_command_explains_the_last_row_of_a_file(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(f"{LINE}\n{LINE.replace('iter: 59', 'iter: 79')}\n")
    result = CliRunner().invoke(main, ["explain", str(path)], standalone_mode=False)
    assert "the 80th iteration" in " ".join(result.output.split())


def test_a_config_tells_length_and_rate(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("SOLVER:\n  BASE_LR: 0.00025\n  MAX_ITER: 10000\n  STEPS: [8000]\n")
    result = CliRunner().invoke(
        main, ["explain", LINE, "--config", str(path)], standalone_mode=False
    )
    assert "of a run of 10,000 iterations" in " ".join(result.output.split())
    rate = " ".join(result.output.partition("\nlr ")[2].split())
    assert "exactly, as the config plans" in rate
    assert "cannot rule out" not in rate


def test_the_command_shows_a_rule():
    result = CliRunner().invoke(main, ["explain", "loss/diverges"], standalone_mode=False)
    assert result.output.startswith("loss/diverges (high")


@pytest.mark.parametrize("args", [["nosuch"], ["x", "--gpu-mem", "much"], ["-"]])
def test_what_cannot_be_explained_is_exit_4(args):
    result = CliRunner().invoke(main, ["explain", *args], input="")
    assert result.exit_code == 4
    assert "Traceback" not in result.output


# ------------------------------------------------------------ lines of other models, as users ask


# https://github.com/facebookresearch/detectron2/issues/627
QUOTED = "`total_loss: 0.850  loss_cls: 0.848  loss_box_reg: 0.000  loss_rpn_cls: 0.002`"


def test_a_line_quoted_without_its_iteration_is_explained_as_far_as_that_goes():
    result = CliRunner().invoke(main, ["explain", "-"], input=QUOTED, standalone_mode=False)
    assert result.exception is None, result.exception
    text = " ".join(result.output.split())
    assert "iteration (they are counted" not in text
    assert "exactly 0: no proposal is matched to an object" in text
    given = CliRunner().invoke(main, ["explain", QUOTED], standalone_mode=False)
    assert given.output == result.output


def test_without_an_iteration_no_schedule_is_guessed():
    result = CliRunner().invoke(
        main, ["explain", "total_loss: 5.1  loss_mask: 0.69  lr: 1.4985e-05"], standalone_mode=False
    )
    text = " ".join(result.output.split())
    assert "takes the iteration" in text and "warm-up" not in text
    assert "normal in the first hundreds of iterations and late after them" in text


MASK2FORMER = "iter: 125059  total_loss: 19.81  " + "  ".join(
    f"loss_ce{n}: {0.3 + k / 10}  loss_mask{n}: 0.56  loss_dice{n}: 0.87"
    for k, n in enumerate(["", *(f"_{layer}" for layer in range(8, -1, -1))])
)


def test_the_layers_of_a_decoder_are_one_field():
    fields = [w.field for w in words(explained(MASK2FORMER))]
    assert fields == [
        "iter", "total_loss", "loss_ce", "loss_mask", "loss_dice",
        "loss_ce_0 to 8", "loss_mask_0 to 8", "loss_dice_0 to 8",
    ]  # fmt: skip
    assert "1.2 after the first of these 9 layers, 0.4 after the last" in said(MASK2FORMER)


@pytest.mark.parametrize(
    ("line", "name", "kind"),
    [
        # CenterNet2, https://github.com/facebookresearch/detectron2/issues/2958
        ("loss_cls_stage0: 0.5  loss_centernet_loc: 0.4", "loss_cls_stage0", "proposal-class"),
        ("loss_cls_stage0: 0.5  loss_rpn_cls: 0.1", "loss_cls_stage0", "classifier"),
        ("loss_cls: 0.5  loss_box_reg: 0.3", "loss_box_reg", "anchor-box"),
        ("loss_cls: 0.5  loss_box_reg: 0.3  loss_rpn_cls: 0.1", "loss_box_reg", "box"),
        ("loss_fcos_cls: 0.5  loss_fcos_loc: 0.3  loss_fcos_ctr: 0.6", "loss_fcos_loc", "overlap"),
        ("loss_cls: 0.5  loss_reg: 0.3  loss_centerness: 0.6", "loss_reg", "overlap"),
        ("loss_cls: 6.6  loss_triplet: 2.5", "loss_cls", "identity"),
        ("loss_cls_b1: 6.6  loss_triplet_b1: 2.5", "loss_cls_b1", "identity"),
        ("loss_class: 0.6  loss_bbox: 0.2  loss_giou: 0.7", "loss_class", "query-class"),
        ("loss_sem_seg: 0.6  loss_rpn_cls: 0.2", "loss_sem_seg", "semantic"),
        ("loss_mask: 0.6  loss_mask_point: 0.6  loss_rpn_cls: 0.2", "loss_mask_point", "points"),
        ("loss_obj_pos: 0.6  loss_cls: 0.5", "loss_obj_pos", "other"),
    ],
)
def test_a_loss_is_told_by_the_names_beside_it(line, name, kind):
    assert reading(Loss, f"iter: 59  total_loss: 9  {line}", name=name).kind == kind


def test_the_floor_of_centerness_is_no_fault():
    """https://github.com/aim-uofa/AdelaiDet/issues/395"""
    line = "iter: 9059  total_loss: 0.95  loss_fcos_cls: 0.004  loss_fcos_ctr: 0.6068"
    assert "no fault" in field("loss_fcos_ctr", line).normal


def test_a_loss_at_the_chance_of_its_identities():
    """https://github.com/JDAI-CV/fast-reid/issues/342: the 751 identities of Market-1501"""
    line = "iter: 9  total_loss: 10.98  loss_cls: 6.619  loss_triplet: 4.353  lr: 5.04e-06"
    assert "with about 749 identities" in field("loss_cls", line).here
    at = reading(Loss, line, known=Known(classes=751), name="loss_cls")
    assert at.at_chance and at.chance == pytest.approx(math.log(751))


def test_projects_that_count_from_one_are_allowed_for():
    line = LINE.replace("iter: 59", "iter: 60")
    assert "the 60th iteration where the project counts from 1" in field("iter", line).here
    assert "counts from 1" not in field("iter").here


def test_a_wait_averaged_over_rows_says_so():
    later = LINE.replace("iter: 59", "iter: 79").replace("data_time: 0.0078", "data_time: 0.0178")
    assert (
        "(0.0128 s is the mean of these 2 rows)"
        in field("time, data_time", f"{LINE}\n{later}").here
    )


def test_a_loss_that_hardly_moves_is_said_to():
    later = LINE.replace("iter: 59", "iter: 79")
    assert "it is what it was at iteration 59" in field("loss_mask", f"{LINE}\n{later}").here
    near = later.replace("loss_mask: 0.6906", "loss_mask: 0.6806")
    assert (
        "hardly changed from 0.6906 at iteration 59" in field("loss_mask", f"{LINE}\n{near}").here
    )


def test_six_decimals_are_read_as_what_they_say():
    """https://github.com/facebookresearch/detectron2/issues/214"""
    row = "iter: {}  total_loss: 1.7  loss_cls: 1.2  loss_box_reg: 0.5  lr: {}"
    text = "\n".join([row.format(19, "0.000200"), row.format(39, "0.000400")])
    here = field("lr", text).here
    assert here.startswith("warm-up, not decay: linear over 1,000 iterations to 0.01")
    assert "gives the printed digits exactly" in here


@pytest.mark.parametrize(
    ("rows", "words_"),
    [
        ([(2839, "2.5e-07"), (2859, "2.5e-07")], "may be BASE_LR or a rate after a decay"),
        ([(125059, "2.5427e-06")], "one row cannot tell its schedule"),
        ([(19, "3.8077e-06"), (39, "7.5527e-06"), (59, "1.1298e-05"), (79, "1.5043e-05"),
          (99, "1.8788e-05"), (119, "2.2623e-05")], "it rises row by row"),
    ],
)  # fmt: skip
def test_what_rows_do_not_tell_of_the_schedule_is_said(rows, words_):
    text = "\n".join(f"iter: {at}  total_loss: 1.7  lr: {lr}" for at, lr in rows)
    assert words_ in field("lr", text).here


def test_what_main_prints_of_the_last_iteration_is_told():
    line = LINE.replace(
        "data_time: 0.0078", "last_time: 0.9018  data_time: 0.0078  last_data_time: 0.45"
    )
    assert "this very iteration took 0.9018 s, 0.45 s of it waiting" in said(line)


def test_a_line_without_a_wait_has_a_time_all_the_same():
    line = LINE.replace("  data_time: 0.0078", "")
    assert "no share" in field("time", line).here


def test_the_first_iteration_is_the_start_of_a_warm_up():
    here = field("lr", "iter: 0  total_loss: 4.8  lr: 2e-05").here
    assert here.startswith("the start of a warm-up to 0.02 from 0.001 of it")


def test_later_stages_of_a_cascade_point_to_the_first():
    line = "iter: 59  total_loss: 1  loss_cls_stage0: 0.5  loss_cls_stage1: 0.4  loss_rpn_cls: 0.1"
    assert "same as loss_cls_stage0 in stage 1" in field("loss_cls_stage1", line).means


def test_a_decayed_rate_is_set_beside_the_linear_rule():
    line = LINE.replace("iter: 59", "iter: 85019").replace("lr: 1.4985e-05", "lr: 0.0002")
    watch = field("lr", line, Known(images_per_batch=16)).watch
    assert watch == "0.0002 is what the linear rule gives after 2 decays by 10."


def test_an_unusual_reading_of_one_row_is_no_assertion():
    assert field("lr", "iter: 9  total_loss: 11  lr: 5.04e-06").here.startswith("perhaps warm-up")
