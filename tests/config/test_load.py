"""Reading config files: every shape that Detectron2 writes or reads, and every broken one."""

import contextlib
import os
import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from d2check.config.load import config_from_text, load_config
from d2check.config.yaml_tree import parse
from d2check.errors import InputError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def refusal(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        load_config(path)
    return caught.value


def test_a_source_is_flattened_and_its_literals_are_read_as_yacs_reads_them(tmp_path):
    path = write(
        tmp_path,
        "my.yaml",
        """
        MODEL:
          WEIGHTS: detectron2://ImageNetPretrained/MSRA/R-50.pkl
          MASK_ON: True
        SOLVER:
          BASE_LR: 1e-3
          STEPS: (60000, 80000)
        OUTPUT_DIR: "2021"
        """,
    )
    config = load_config(path)
    assert (config.kind, config.complete, config.source) == ("yacs", False, str(path))
    assert config.values == {
        "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
        "MODEL.MASK_ON": True,
        "SOLVER.BASE_LR": 0.001,  # PyYAML alone says '1e-3'
        "SOLVER.STEPS": [60000, 80000],
        "OUTPUT_DIR": "2021",  # text by default, so it stays text
    }


def test_bases_are_merged_as_fvcore_merges_them(tmp_path):
    config_module = pytest.importorskip("fvcore.common.config")
    write(tmp_path, "a.yaml", "MODEL: {DEPTH: 50, NORM: BN}\nSOLVER: {STEPS: [1, 2]}\n")
    write(tmp_path, "bases/b.yaml", "_BASE_: ../a.yaml\nMODEL: {NORM: GN}\nVERSION: 2\n")
    write(tmp_path, "c.yaml", "SOLVER: {GAMMA: 0.5}\n")
    path = write(
        tmp_path, "own/d.yaml", "_BASE_: [../bases/b.yaml, ../c.yaml]\nSOLVER: {STEPS: [3]}\n"
    )
    real = config_module.CfgNode.load_yaml_with_base(str(path))
    assert real == {
        "MODEL": {"DEPTH": 50, "NORM": "GN"}, "SOLVER": {"STEPS": [3], "GAMMA": 0.5}, "VERSION": 2,
    }  # fmt: skip
    assert load_config(path).values == {
        "MODEL.DEPTH": 50, "MODEL.NORM": "GN", "SOLVER.STEPS": [3], "SOLVER.GAMMA": 0.5,
        "VERSION": 2,
    }  # fmt: skip


def test_a_base_in_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "base.yaml", "SEED: 7\n")
    assert load_config(write(tmp_path, "x/own.yaml", "_BASE_: ~/base.yaml\n")).values == {"SEED": 7}


def test_a_dump_of_detectron2_is_complete_and_comes_back_equal(tmp_path):
    config_module = pytest.importorskip("detectron2.config")
    cfg = config_module.get_cfg()
    cfg.SOLVER.STEPS, cfg.OUTPUT_DIR = (10, 20), "./123"
    config = load_config(write(tmp_path, "config.yaml", cfg.dump()))
    assert config.complete
    flat = {}

    def collect(node, prefix=""):
        for key, value in node.items():
            if isinstance(value, dict) and value:
                collect(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value

    collect(yaml.safe_load(cfg.dump()))
    assert config.values == flat


def test_every_config_of_the_installed_detectron2_reads():
    zoo = pytest.importorskip("detectron2.model_zoo")
    folder = Path(zoo.__file__).parent / "configs"
    paths = sorted(folder.rglob("*.yaml"))
    if not paths:
        pytest.skip("this Detectron2 was installed without its configs")
    assert all(load_config(path).kind == "yacs" for path in paths)


def test_python_tags_become_data_and_nothing_is_executed(tmp_path):
    trace = tmp_path / "executed"
    path = write(
        tmp_path,
        "retinanet.yaml",
        f"""
        MODEL:
          ANCHOR_GENERATOR:
            SIZES: !!python/object/apply:eval ["open({str(trace)!r}, 'w')"]
          PIXEL_MEAN: !!python/tuple [1.0, 2.0]
          DEVICE: !!python/unicode cuda
        SOLVER:
          BASE_LR: !!python/float 0.01
          STEPS: !!python/object/new:os.system ["touch {trace}"]
        """,
    )
    values = load_config(path).values
    assert not trace.exists()
    assert values["MODEL.ANCHOR_GENERATOR.SIZES"].startswith("!!python/object/apply:eval")
    assert values["SOLVER.STEPS"].startswith("!!python/object/new:os.system")
    assert values["MODEL.PIXEL_MEAN"] == [1.0, 2.0]
    assert values["MODEL.DEVICE"] == "cuda"
    assert values["SOLVER.BASE_LR"] == 0.01


LAZY_DUMP = """
    dataloader: {train: {total_batch_size: 16, num_workers: 4}}
    lr_multiplier:
      _target_: detectron2.solver.lr_scheduler.WarmupParamScheduler
      scheduler: {_target_: fvcore.common.param_scheduler.MultiStepParamScheduler,
                  values: [1.0, 0.1], milestones: [8, 9]}
      warmup_length: 0.01
      warmup_factor: 0.001
    model:
      _target_: detectron2.modeling.GeneralizedRCNN
      backbone:
        norm: !!python/name:torch.nn.BatchNorm2d ''
        shape: !!python/object:detectron2.layers.shape_spec.ShapeSpec
          channels: 3
          height: null
      roi_heads:
        num_classes: 80
        box_predictor: {num_classes: "${..num_classes}", text: "K=${..num_classes}"}
        sizes: [1, "${...missing}", "${..num_classes}"]
    optimizer: {lr: "${train.base_lr}", loop: "${.loop}"}
    train: {max_iter: 90000, base_lr: 0.02, out: "${oc.env:HOME}"}
    """


def test_a_lazy_dump_is_plain_data_with_its_references_resolved(tmp_path):
    config = load_config(write(tmp_path, "config.yaml", LAZY_DUMP))
    assert (config.kind, config.complete) == ("lazy", True)
    values = config.values
    assert values["optimizer.lr"] == 0.02
    assert values["model.roi_heads.box_predictor.num_classes"] == 80
    assert values["model.roi_heads.box_predictor.text"] == "K=80"
    assert values["model.roi_heads.sizes"] == [1, "${...missing}", 80]
    assert values["model.backbone.norm"] == "torch.nn.BatchNorm2d"
    assert values["model.backbone.shape.channels"] == 3
    assert values["lr_multiplier.scheduler.milestones"] == [8, 9]


def test_references_that_lead_nowhere_stay_text(tmp_path):
    values = load_config(write(tmp_path, "config.yaml", LAZY_DUMP)).values
    assert values["optimizer.loop"] == "${.loop}"
    assert values["train.out"] == "${oc.env:HOME}"


def test_lazy_dump_of_the_installed_detectron2(tmp_path):
    """LazyConfig.save of a stock-like config: what lazyconfig_train_net leaves in its folder."""
    config_module = pytest.importorskip("detectron2.config")
    pytest.importorskip("omegaconf")
    from fvcore.common.param_scheduler import MultiStepParamScheduler
    from omegaconf import OmegaConf

    tree = {
        "train": {"max_iter": 90000, "output_dir": "./out"},
        "optimizer": {"lr": 0.02},
        "dataloader": {"train": {"total_batch_size": 16}},
    }
    cfg = OmegaConf.create(tree)
    cfg.lr_multiplier = config_module.LazyCall(MultiStepParamScheduler)(
        values=[1.0, 0.1], milestones=[60000, 90000]
    )
    path = tmp_path / "config.yaml"
    config_module.LazyConfig.save(cfg, str(path))
    values = load_config(path).values
    assert values["lr_multiplier._target_"].endswith("MultiStepParamScheduler")
    assert values["optimizer.lr"] == 0.02


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty file"),
        (b"# only a comment\n", "empty file"),
        (b"\x00\x05\x16\x07\x00\x02Mac OS X", "AppleDouble"),
        (b"\x80\x04\x95\x00\x00pickle", "binary"),
        (b"- a\n- b\n", "a list"),
        (b"just words\n", "no mapping"),
        (b"services: {web: 1}\nnetworks: {}\n", "something else"),
        (b"A: \xff\xfe\xfa\n", "not YAML text"),
        (b"A: \x07\n", "not YAML text"),
        (b"A: 2021-13-45\n", "cannot read"),
        (b"A: !!python/int x\n", "cannot read"),
        (b"? [a, b]\n: 1\n", "not valid YAML"),
        (b"[" * 200 + b"]" * 200, "levels"),
    ],
)
def test_what_is_no_config_is_refused_with_what_was_found(tmp_path, content, found):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    error = refusal(path)
    assert found in error.found
    assert str(path) in error.where


def test_broken_yaml_is_placed_by_line_and_column(tmp_path):
    path = write(tmp_path, "broken.yaml", "MODEL:\n  MASK_ON: [1, 2\nSOLVER: {}\n")
    assert refusal(path).where == f"{path}:3:7"


def test_a_tab_is_named_as_the_fault(tmp_path):
    path = tmp_path / "tab.yaml"
    path.write_text("MODEL:\n\tMASK_ON: True\n")
    assert "spaces" in refusal(path).todo


def test_aliases_that_multiply_are_refused_quickly(tmp_path):
    levels = "\n".join(f"A{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
    path = write(tmp_path, "bomb.yaml", "A0: &a0 [x, x, x]\n" + levels + "\n")
    assert "values" in refusal(path).found


def test_a_file_that_inherits_from_itself_is_refused(tmp_path):
    write(tmp_path, "a.yaml", "_BASE_: b.yaml\n")
    path = write(tmp_path, "b.yaml", "_BASE_: ./a.yaml\n")
    assert "circle" in refusal(path).found


@pytest.mark.parametrize("base", ["https://x.org/a.yaml", "detectron2://a.yaml", "''", "3", "{}"])
def test_a_base_that_is_no_local_file_is_refused(tmp_path, base):
    assert "_BASE_" in refusal(write(tmp_path, "a.yaml", f"_BASE_: {base}\n")).found


def test_a_missing_base_names_who_asked_for_it(tmp_path):
    path = write(tmp_path, "a.yaml", "_BASE_: gone.yaml\n")
    error = refusal(path)
    assert error.found == "no such file"
    assert "gone.yaml" in error.where
    assert str(path) in error.where


def test_a_section_over_a_value_is_refused(tmp_path):
    write(tmp_path, "a.yaml", "MODEL: 3\n")
    path = write(tmp_path, "b.yaml", "_BASE_: a.yaml\nMODEL: {MASK_ON: True}\n")
    assert "MODEL" in refusal(path).found


def test_a_missing_file_a_folder_and_python_are_refused(tmp_path):
    assert refusal(tmp_path / "none.yaml").found == "no such file"
    assert refusal(tmp_path).found == "a folder"
    assert "LazyConfig in Python" in refusal(write(tmp_path, "lazy.py", "x = 1\n")).found
    assert "cannot be read" in refusal(tmp_path / ("x" * 300)).found


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")
    assert refusal(tmp_path / "config.yaml").found == "a pipe or a device"


def test_text_without_a_file_cannot_inherit():
    assert config_from_text("SEED: 3\n", "log.txt:12").values == {"SEED": 3}
    with pytest.raises(InputError, match=r"log\.txt:12"):
        config_from_text("_BASE_: a.yaml\n", "log.txt:12")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text("-:[]{}&*!|>'\"#%@`, \n\tabA1.0e$", max_size=120))
def test_any_bytes_are_read_or_refused_never_worse(data):
    with contextlib.suppress(InputError):
        assert config_from_text(data, "soup").source == "soup"


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False)
    | st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=12),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text("ABCxyz_", min_size=1, max_size=6), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("ABCxyz_", min_size=1, max_size=6), plain, min_size=1, max_size=4))
def test_what_pyyaml_dumps_comes_back_equal(tree):
    assert parse(yaml.safe_dump(tree), "dump") == tree
