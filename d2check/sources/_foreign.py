"""Files that are given for rows or logs and are something else, told by how they begin."""

from __future__ import annotations

import re

_UNPACK = "Unpack it, and name the folder or the file that comes of it"
_ARCHIVES = (
    (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"BZh", "packed by bzip2, which is not read"),
    (b"\xfd7zXZ", "packed by xz, which is not read"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd, which is not read"),
)
_TAR_MARK, _TAR_AT = b"ustar", 257
# What torch.save puts into its zip files.
_CHECKPOINT = re.compile(
    rb"/(?:data\.pkl|\.format_version|byteorder|version)\b|^PK.{28}archive/", re.S
)
_ITERATION = re.compile(rb'"iteration"\s*:')
_NAMES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst",
          ".7z", ".rar")  # fmt: skip


def archive(start: bytes) -> tuple[str, str] | None:
    """What an archive is, and what to do with it; None for anything else.

    start: how the file begins, unpacked by gzip.
    """
    if start.startswith(b"PK\x03\x04") and _CHECKPOINT.search(start[:4096]):
        return (
            "a checkpoint of PyTorch",
            "Name the output folder, which holds metrics.json or log.txt",
        )
    if start[_TAR_AT : _TAR_AT + len(_TAR_MARK)] == _TAR_MARK:
        return "a tar archive", _UNPACK
    return next(((name, _UNPACK) for mark, name in _ARCHIVES if start.startswith(mark)), None)


def is_named_like_an_archive(name: str) -> bool:
    """Whether a name is that of an archive."""
    return name.lower().endswith(_NAMES)


def instead_of_rows(start: bytes, name: str) -> tuple[str, str] | None:
    """What stands in a metrics.json in place of rows, and what to do; None where it is unknown."""
    found = archive(start)
    if found is not None:
        return found
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a pointer of Git LFS, not the file itself", "Fetch the file with `git lfs pull`"
    bare = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if bare[:200].lower().startswith((b"<!doctype", b"<html")):
        return "a web page", "Download the file itself"
    if bare.startswith((b"[", b"{")) and _ITERATION.search(start):
        items = ".[]" if bare.startswith(b"[") else "."
        return (
            "JSON, but not one row on each line",
            f"Bring it into that form: jq -c '{items}' {name} > rows.jsonl",
        )
    return None
