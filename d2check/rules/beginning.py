"""What a model was before its first iteration, by the weights that it was given."""

from __future__ import annotations

import re

from d2check.model import Beginning, Run

# A trained model by its file: what Detectron2's checkpointers, its model zoo and others write.
_WHOLE = re.compile(
    r"(^|/)(model_(final|best)\w*|model_\d{5,8}|checkpoint[-_]?(best|last|final|\d+)"
    r"|best|last|final|latest|detr-r\d+-\w+)\.(pkl|pth|pt|ckpt)$"
)
# Backbones: Detectron2's own, and the words that names of pretrained ones have.
_BACKBONE = re.compile(
    r"imagenet|(^|[/_.-])(r-\d+|x-\d+|resnet|resnext|res2net|regnet|hrnet|vovnet|swin|vit|deit|mae"
    r"|mvit|convnext|focalnet|internimage|eva\d*|dino(v\d)?|moco|clip|beit|in\d+k|timm|torchvision"
    r"|backbone|pretrain\w*)"
)
# Checkpoints of Detectron2's model zoo, by the number of classes that they were trained on.
_ZOO = (
    (re.compile(r"coco-|mask_rcnn_vitdet|new_baselines|model_final_[0-9a-f]{6}\.pkl$"), (80,)),
    (re.compile(r"coco-keypoints"), (1,)),
    (re.compile(r"lvisv1"), (1203,)),
    (re.compile(r"lvisv0\.5"), (1230,)),
    (re.compile(r"cityscapes"), (8,)),
    (re.compile(r"pascalvoc"), (20,)),
)
_OWN_MODELS = {
    "GeneralizedRCNN", "RetinaNet", "FCOS", "PanopticFPN", "ProposalNetwork", "SemanticSegmentor",
}  # fmt: skip
# What a checkpoint may lack though the model was trained: constants, counters, tables.
_CONSTANT = re.compile(
    r"pixel_(mean|std)|cell_anchors|num_batches_tracked|empty_weight|relative_position_index"
    r"|attn_mask|position_ids|freqs"
)
_FEW = 4  # weights that may be constants where their names are not known


def beginning(run: Run, weights: str | None) -> Beginning:
    """Whether the model was trained before, by what was loaded, else by the name of the file.

    weights: MODEL.WEIGHTS, None where the config does not say. A file's name that tells of a whole
    model does not tell whether its classes fit: where the model zoo's number of classes is not that
    of the run, their layers are new.
    """
    name = str(run.facts.get("weights") or weights or "")
    found = _by_load(run, name) or _by_traces(run)
    if found is None and name:
        found = _by_name(run, name)
    return found or _without_name(run, weights)


def _by_load(run: Run, name: str) -> Beginning | None:
    """By the count of weights that were found in the checkpoint."""
    total = run.facts.get("weights_total")
    if not isinstance(total, int) or total <= 0:
        return None
    missing, skipped = (int(run.facts.get(f"weights_{k}") or 0) for k in ("missing", "skipped"))
    of = f" of {_short(name)}" if name else ""
    if not missing and not skipped:
        return Beginning(True, f"all {total} weights were loaded{of}")
    told = f"{missing + skipped} of {total} weights are not those{of or ' of the checkpoint'}"
    return Beginning(False if skipped or missing > _FEW else None, told)


def _by_traces(run: Run) -> Beginning | None:
    """By the weights that a log names as lost, or its word that nothing was loaded."""
    if any(event.kind == "from-scratch" for event in run.events):
        return Beginning(False, "no checkpoint was found")
    lost = [e.message for e in run.events if e.kind in ("missing-weights", "skipped-weights")]
    names = [name.strip() for text in lost for name in text.split(", ") if name.strip()]
    new = next((name for name in names if not _CONSTANT.search(name)), None)
    return None if new is None else Beginning(False, f"{new} was not in the checkpoint")


def _by_name(run: Run, name: str) -> Beginning:
    lower = name.lower().replace("\\", "/").partition("?")[0]
    if _WHOLE.search(lower):
        told = f"{_short(name)} is the name of a whole model"
        sizes = next((sizes for zoo, sizes in _ZOO if zoo.search(lower)), None)
        classes = run.facts.get("classes")
        if sizes is None or classes in sizes:
            return Beginning(True, told)
        if classes is None:
            return Beginning(None, told)
        return Beginning(False, f"{told} of {sizes[0]} classes, and this one has {classes}")
    if _BACKBONE.search(lower):
        return Beginning(False, f"{_short(name)} is the name of a backbone")
    return Beginning(None, f"the name {_short(name)} does not tell what it holds")


def _without_name(run: Run, weights: str | None) -> Beginning:
    loads = run.facts.get("state_dicts_loaded")
    if weights is None:
        return Beginning(None, "nothing tells which weights it was given")
    if loads or (loads is None and run.facts.get("meta_architecture") not in _OWN_MODELS):
        return Beginning(None, "the config names no weights, and the model may load some by itself")
    return Beginning(False, "the config names no weights")


def _short(name: str) -> str:
    """The last two parts of a path."""
    return "/".join(name.replace("\\", "/").split("/")[-2:])
