"""The types that every room passes on."""

from __future__ import annotations

import math

import pytest

from d2check.model import Fix, Override, Verdict, to_plain


@pytest.mark.parametrize(
    ("proposed", "text"),
    [
        (0.0025, "SOLVER.BASE_LR 0.0025"),
        (1.0, "SOLVER.BASE_LR 1.0"),
        (1e-7, "SOLVER.BASE_LR 1e-07"),
        (2500000.0, "SOLVER.BASE_LR 2.5e+06"),
        (4, "SOLVER.BASE_LR 4"),
        ([60, 80], 'SOLVER.BASE_LR "(60, 80)"'),
        ([60], 'SOLVER.BASE_LR "(60,)"'),
        ("", 'SOLVER.BASE_LR ""'),
    ],
)
def test_an_override_can_be_pasted_and_keeps_its_type(proposed: object, text: str) -> None:
    fix = Fix(because="", overrides=(Override("SOLVER.BASE_LR", None, proposed),))
    assert fix.as_command_line() == text


@pytest.mark.parametrize(
    ("key", "proposed", "text"),
    [
        ("optimizer.lr", 0.00125, "optimizer.lr=0.00125"),
        ("train.max_iter", 90000, "train.max_iter=90000"),
        ("model.pixel_std", [57.4, 57.1], '"model.pixel_std=[57.4, 57.1]"'),
        ("train.init_checkpoint", "a.pkl", "train.init_checkpoint=a.pkl"),
    ],
)
def test_an_override_of_a_lazy_config_is_one_word(key: str, proposed: object, text: str) -> None:
    fix = Fix(because="", overrides=(Override(key, None, proposed),))
    assert fix.as_command_line() == text


def test_plain_data_is_strict_json() -> None:
    plain = to_plain({"value": math.nan, "verdict": Verdict.FAIL, "span": (1, 2)})
    assert plain == {"value": None, "verdict": "FAIL", "span": [1, 2]}
