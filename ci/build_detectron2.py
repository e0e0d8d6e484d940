"""Rebuild Detectron2 0.6 from its PyPI sdist as a pure-Python wheel that runs on today's libraries.

The sdist is only read, never run: its sha256 is checked, ``detectron2/`` and the three bundled
projects are taken, exact and counted text replacements are applied (any mismatch stops the
build), a stand-in for the compiled ``detectron2._C`` is added, and a wheel is written whose bytes
depend on nothing but the sdist and this file. Standard library only.

What stays out: rotated boxes and deformable convolutions, which need the compiled operators and
say so when called, and the compiled COCO evaluation, replaced by pycocotools' own.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SDIST_NAME = "pb1-detectron2-0.6.tar.gz"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
SDIST_ROOT = "pb1-detectron2-0.6"
VERSION = "0.6+pure"
WHEEL_NAME = f"detectron2-{VERSION}-py3-none-any.whl"
DIST_INFO = f"detectron2-{VERSION}.dist-info"

# Where the sdist's own setup.py puts these three (its PROJECTS table).
PROJECTS = {
    "projects/PointRend/point_rend": "detectron2/projects/point_rend",
    "projects/DeepLab/deeplab": "detectron2/projects/deeplab",
    "projects/Panoptic-DeepLab/panoptic_deeplab": "detectron2/projects/panoptic_deeplab",
}

# The sdist's install_requires without black==21.4b2, future and pydot, which no code path of
# training or evaluation imports; omegaconf < 2.4 because hydra-core 1.3 asks for it.
REQUIRES = (
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7,<0.1.10",
    "omegaconf>=2.1,<2.4",
    "hydra-core>=1.1",
    "torch>=1.8",
    "torchvision",
)


class BuildError(Exception):
    """The sdist is not the one that these replacements were written for."""


@dataclass(frozen=True)
class Replacement:
    """Text to exchange in one file, which must hold it exactly `count` times."""

    path: str
    before: str
    after: str
    count: int


def _numpy_aliases() -> Iterable[Replacement]:
    """Names that numpy dropped in 1.24, spelled as the builtins they always were.

    ``np.bool`` came back in numpy 2 with another meaning, so it is exchanged too.
    """
    yield Replacement("detectron2/data/build.py", "dtype=np.int)", "dtype=int)", 1)
    yield Replacement("detectron2/data/build.py", "dtype=np.int\n", "dtype=int\n", 1)
    yield Replacement("detectron2/data/datasets/pascal_voc.py", "dtype=np.str)", "dtype=str)", 1)
    semantic = "detectron2/evaluation/sem_seg_evaluation.py"
    yield Replacement(semantic, "dtype=np.int)", "dtype=int)", 2)
    yield Replacement(semantic, "dtype=np.float)", "dtype=float)", 2)
    yield Replacement(semantic, ".astype(np.float)", ".astype(float)", 3)
    voc = "detectron2/evaluation/pascal_voc_evaluation.py"
    yield Replacement(voc, ".astype(np.bool)", ".astype(bool)", 2)  # one of them in a comment
    masks = "detectron2/structures/masks.py"
    yield Replacement(masks, ".astype(np.bool)", ".astype(bool)", 2)
    yield Replacement(masks, "dtype=np.bool)", "dtype=bool)", 1)
    visualizer = "detectron2/utils/visualizer.py"
    yield Replacement(visualizer, ".astype(np.bool)", ".astype(bool)", 3)
    video = "detectron2/utils/video_visualizer.py"
    yield Replacement(video, "dtype=np.bool)", "dtype=bool)", 1)


REPLACEMENTS: tuple[Replacement, ...] = (
    # Pillow 10 dropped the alias.
    Replacement(
        "detectron2/data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR", count=1
    ),
    # setuptools 82 dropped pkg_resources.
    Replacement("detectron2/model_zoo/model_zoo.py", "import pkg_resources\n", "", count=1),
    Replacement(
        "detectron2/model_zoo/model_zoo.py",
        'pkg_resources.resource_filename(\n        "detectron2.model_zoo", ',
        "os.path.join(\n        os.path.dirname(os.path.abspath(__file__)), ",
        count=1,
    ),
    # The subclass calls compiled code; the base class gives the same figures more slowly.
    Replacement(
        "detectron2/evaluation/fast_eval_api.py",
        "class COCOeval_opt(COCOeval):",
        "COCOeval_opt = COCOeval\n\n\nclass _CompiledCOCOeval(COCOeval):",
        count=1,
    ),
    *_numpy_aliases(),
)

COMPILED_STUB = '''\
"""Stands in for the compiled operators that this pure-Python build leaves out."""


def get_compiler_version():
    return "not compiled"


def get_cuda_version():
    return "not compiled"


def has_cuda():
    return False


def _left_out(name):
    def operator(*args, **kwargs):
        raise NotImplementedError(
            "detectron2._C.%s is a compiled operator and this Detectron2 was built without "
            "them; install a compiled Detectron2 to use it" % name
        )

    operator.__name__ = name
    return operator


for _name in (
    "COCOevalAccumulate",
    "COCOevalEvaluateImages",
    "InstanceAnnotation",
    "box_iou_rotated",
    "deform_conv_backward_filter",
    "deform_conv_backward_input",
    "deform_conv_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "nms_rotated",
    "roi_align_rotated_backward",
    "roi_align_rotated_forward",
):
    globals()[_name] = _left_out(_name)
'''


def verify_sha256(content: bytes, expected: str, *, source: str) -> None:
    """Raise `BuildError` unless `content` has the sha256 `expected`."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise BuildError(
            f"{source}: sha256 is {found}, expected {expected}. "
            f"Fetch {SDIST_NAME} again; a file with another hash is never used."
        )


def read_package(sdist: bytes) -> dict[str, bytes]:
    """The files of the wheel, by path in it, unchanged from the sdist.

    Raises `BuildError` when the sdist lacks the package, a project or the licence.
    """
    sources = {"detectron2": "detectron2", **PROJECTS}
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(sdist), mode="r:gz") as archive:
        for member in archive:
            if not member.isfile():
                continue
            path = PurePosixPath(member.name)
            if path.parts[0] != SDIST_ROOT or ".." in path.parts:
                raise BuildError(f"{member.name}: unexpected path in the sdist")
            target = _wheel_path(path.relative_to(SDIST_ROOT), sources)
            content = archive.extractfile(member)
            if target is not None and content is not None:
                files[target] = content.read()
    wanted = [f"{folder}/__init__.py" for folder in sources.values()]
    missing = [path for path in [*wanted, f"{DIST_INFO}/LICENSE"] if path not in files]
    if missing:
        raise BuildError(f"the sdist has no source for {', '.join(missing)}")
    return files


def _wheel_path(path: PurePosixPath, sources: Mapping[str, str]) -> str | None:
    if str(path) == "LICENSE":
        return f"{DIST_INFO}/LICENSE"
    for source, target in sources.items():
        if path.is_relative_to(source):
            return str(PurePosixPath(target) / path.relative_to(source))
    return None


def apply_replacements(
    files: Mapping[str, bytes], replacements: Iterable[Replacement] = REPLACEMENTS
) -> dict[str, bytes]:
    """A copy of `files` with every replacement made.

    All mismatches are collected and raised as one `BuildError` that names each file, the text,
    and how often it was expected and found.
    """
    fixed = dict(files)
    problems: list[str] = []
    for replacement in replacements:
        content = fixed.get(replacement.path)
        if content is None:
            problems.append(f"{replacement.path}: file not found")
            continue
        found = content.count(replacement.before.encode())
        if found != replacement.count:
            problems.append(
                f"{replacement.path}: expected {replacement.before!r} "
                f"{replacement.count} times, found {found}"
            )
            continue
        fixed[replacement.path] = content.replace(
            replacement.before.encode(), replacement.after.encode()
        )
    if problems:
        raise BuildError("replacements do not fit this source:\n  " + "\n  ".join(problems))
    return fixed


def wheel_bytes(files: Mapping[str, bytes]) -> bytes:
    """The wheel as bytes: sorted entries, fixed dates and modes; equal input gives equal bytes.

    Stored, not deflated: deflate's output differs between zlib versions.
    """
    entries = dict(files)
    entries[f"{DIST_INFO}/METADATA"] = _metadata().encode()
    entries[f"{DIST_INFO}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: d2check\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record_path = f"{DIST_INFO}/RECORD"
    record = [
        f"{path},sha256={_record_digest(content)},{len(content)}"
        for path, content in sorted(entries.items())
    ]
    entries[record_path] = "\n".join([*record, f"{record_path},,", ""]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as wheel:
        for path in sorted(entries, key=lambda name: (name.startswith(DIST_INFO), name)):
            info = zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, whatever the machine: it is written into the archive
            info.external_attr = 0o644 << 16
            wheel.writestr(info, entries[path])
    return buffer.getvalue()


def _metadata() -> str:
    lines = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        "Summary: Detectron2 0.6 without its compiled operators",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "License: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.8",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIRES),
    ]
    return "\n".join(lines) + "\n"


def _record_digest(content: bytes) -> str:
    digest = hashlib.sha256(content).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def build(sdist: Path, folder: Path) -> Path:
    """Write the wheel into `folder` and return its path.

    Raises `BuildError` when `sdist` is not the pinned file or a replacement does not fit.
    """
    content = sdist.read_bytes()
    verify_sha256(content, SDIST_SHA256, source=str(sdist))
    files = apply_replacements(read_package(content))
    files["detectron2/_C.py"] = COMPILED_STUB.encode()
    wheel = folder / WHEEL_NAME
    folder.mkdir(parents=True, exist_ok=True)
    wheel.write_bytes(wheel_bytes(files))
    return wheel


def main(arguments: list[str] | None = None) -> int:
    """Build from the command line; 0 on success, 1 with one message on a wrong sdist."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sdist", type=Path, help=SDIST_NAME)
    parser.add_argument("folder", type=Path, help="where to write the wheel")
    options = parser.parse_args(arguments)
    try:
        print(build(options.sdist, options.folder))
    except (BuildError, OSError) as error:
        print(f"build_detectron2: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
