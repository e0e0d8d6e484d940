"""The builder on small made-up trees: nothing of Detectron2 is needed or fetched."""

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import build_detectron2
import pytest
from build_detectron2 import BuildError, Replacement

PACKAGE = {
    "LICENSE": b"a licence",
    "setup.py": b"raise SystemExit('never to be run')",
    "tools/train_net.py": b"",
    "detectron2/__init__.py": b'__version__ = "0.6"\n',
    "detectron2/projects/__init__.py": b"",
    "detectron2/data/build.py": b"a = np.int\nb = np.int\n",
    "projects/PointRend/point_rend/__init__.py": b"",
    "projects/DeepLab/deeplab/__init__.py": b"",
    "projects/Panoptic-DeepLab/panoptic_deeplab/__init__.py": b"",
}


def sdist_of(files: dict[str, bytes], root: str = build_detectron2.SDIST_ROOT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(f"{root}/{path}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_package_and_projects_are_taken_and_setup_py_is_not():
    files = build_detectron2.read_package(sdist_of(PACKAGE))

    assert files["detectron2/projects/point_rend/__init__.py"] == b""
    assert not any("setup.py" in path or "tools" in path for path in files)


def test_sdist_without_a_project_is_refused_by_name():
    without = {path: content for path, content in PACKAGE.items() if "DeepLab/deeplab" not in path}

    with pytest.raises(BuildError, match=r"detectron2/projects/deeplab/__init__\.py"):
        build_detectron2.read_package(sdist_of(without))


@pytest.mark.parametrize("root", ["elsewhere", "pb1-detectron2-0.6/.."])
def test_sdist_with_paths_outside_its_root_is_refused(root):
    with pytest.raises(BuildError, match="unexpected path"):
        build_detectron2.read_package(sdist_of(PACKAGE, root))


def test_replacement_found_as_often_as_expected_is_made():
    files = {"a.py": b"np.int, np.int"}

    fixed = build_detectron2.apply_replacements(files, [Replacement("a.py", "np.int", "int", 2)])

    assert fixed == {"a.py": b"int, int"}
    assert files == {"a.py": b"np.int, np.int"}


def test_all_mismatches_are_reported_at_once_with_file_and_counts():
    files = {"a.py": b"np.int"}
    replacements = [Replacement("a.py", "np.int", "int", 2), Replacement("gone.py", "x", "y", 1)]

    with pytest.raises(BuildError) as caught:
        build_detectron2.apply_replacements(files, replacements)

    assert "a.py: expected 'np.int' 2 times, found 1" in str(caught.value)
    assert "gone.py: file not found" in str(caught.value)


def test_file_with_another_hash_is_refused_and_nothing_is_written(tmp_path):
    sdist = tmp_path / build_detectron2.SDIST_NAME
    sdist.write_bytes(sdist_of(PACKAGE))

    with pytest.raises(BuildError, match=f"expected {build_detectron2.SDIST_SHA256}"):
        build_detectron2.build(sdist, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_wrong_sdist_is_one_message_and_exit_1(tmp_path, capsys):
    sdist = tmp_path / "other.tar.gz"
    sdist.write_bytes(b"not it")

    assert build_detectron2.main([str(sdist), str(tmp_path)]) == 1
    assert "build_detectron2: " in capsys.readouterr().err


def test_equal_files_in_another_order_give_equal_bytes():
    files = {"detectron2/b.py": b"2", "detectron2/a.py": b"1"}

    assert build_detectron2.wheel_bytes(files) == build_detectron2.wheel_bytes(
        dict(reversed(files.items()))
    )


def test_wheel_installs_offline_and_uninstalls_completely(tmp_path):
    """pip checks RECORD on install and needs it to remove every file."""
    wheel = tmp_path / build_detectron2.WHEEL_NAME
    files = {"detectron2/__init__.py": b"", f"{build_detectron2.DIST_INFO}/LICENSE": b""}
    wheel.write_bytes(build_detectron2.wheel_bytes(files))
    target = tmp_path / "target"

    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "-qq"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True)

    recorded = (target / build_detectron2.DIST_INFO / "RECORD").read_text()
    assert "detectron2/__init__.py,sha256=" in recorded
    assert zipfile.ZipFile(wheel).testzip() is None


def test_stub_imports_and_its_operators_say_what_is_missing(tmp_path):
    stub: dict[str, object] = {}
    exec(build_detectron2.COMPILED_STUB, stub)

    assert stub["has_cuda"]() is False
    with pytest.raises(NotImplementedError, match="nms_rotated is a compiled operator"):
        stub["nms_rotated"](None)


def test_every_replacement_names_a_file_of_the_package_and_changes_something():
    for replacement in build_detectron2.REPLACEMENTS:
        assert Path(replacement.path).parts[0] == "detectron2"
        assert replacement.before != replacement.after
        assert replacement.count > 0
