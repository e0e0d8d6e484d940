"""Rule files of folders -> rules, or every problem of every file at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from d2check.checks import CHECKS
from d2check.config import keys
from d2check.errors import InputError, Problem, RuleFileError
from d2check.rules.bindings import Checks
from d2check.rules.fields import nearest
from d2check.rules.model import Rule
from d2check.rules.project import TOML_TABLE, Project, build_project, read_toml
from d2check.rules.rule_file import build_rule
from d2check.rules.yaml_text import Document, read_yaml

SUFFIXES = (".yaml", ".yml")
_EXAMPLES = "\nexamples:"  # the last key of every shipped rule, as its tests hold
PROJECT_FILES = ("d2check.yaml", "d2check.yml")


def shipped_rules() -> Path:
    """The folder of the rules that come with d2check: in the wheel, or in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_rules"
    return installed if installed.is_dir() else package.parent / "rules"


def load_rules(
    folders: Sequence[Path] | None = None,
    *,
    checks: Checks | None = None,
    shipped_examples: bool = True,
) -> tuple[Rule, ...]:
    """All rules of some folders (the shipped ones by default), sorted by id.

    Rules of several folders are one set: ids are unique in it, and `explained_by` may name any.
    shipped_examples: whether the shipped rules come with their examples, which take longer to read
    than all the rest and judge nothing. Those of other folders are always read: no rule without.
    Raises RuleFileError with every problem of every file, InputError for a folder that is none.
    """
    documents: list[Document] = []
    rules: list[tuple[Rule, Document]] = []
    shipped = shipped_rules()
    for folder in [shipped] if folders is None else folders:
        whole = shipped_examples or folder != shipped
        for path in _rule_files(Path(folder)):
            document = _read(path, whole=whole)
            documents.append(document)
            known = CHECKS if checks is None else checks
            rule = build_rule(document, known, keys.is_valid, with_examples=whole)
            if rule is not None:
                _check_id(rule, path, document, Path(folder))
                rules.append((rule, document))
    broken = {document.path for document in documents if document.problems}
    _check_together(rules, some_are_broken=bool(broken))
    problems = [problem for document in documents for problem in document.problems]
    if problems:
        raise RuleFileError(sorted(problems, key=lambda p: (p.path, p.line, p.column)))
    return tuple(sorted((rule for rule, _ in rules), key=lambda rule: rule.id))


def read_text(path: Path, what: str) -> str:
    """The text of a file. Raises InputError, worded for `what` the file was taken for."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            str(path), f"is not UTF-8 text (byte {error.start})", what, "Give a text file"
        ) from error
    except OSError as error:
        raise InputError(
            str(path), f"cannot be read: {error.strerror}", what, "Check path and permissions"
        ) from error


def load_project(path: Path, rules: Sequence[Rule]) -> Project:
    """What a project file (d2check.yaml, or pyproject.toml) changes in these rules.

    Raises RuleFileError with every problem, InputError for a file that cannot be read.
    """
    text = read_text(path, "a project file")
    if path.suffix == ".toml":
        document: Document = read_toml(text, str(path))
    else:
        document = read_yaml(text, str(path))
    project = build_project(document, rules)
    if document.problems:
        raise RuleFileError(document.problems, "the project file")
    return project


def find_project(folder: Path) -> Path | None:
    """The project file of a folder or of the nearest folder above it that has one."""
    for place in (folder.resolve(), *folder.resolve().parents):
        for name in PROJECT_FILES:
            if (place / name).is_file():
                return place / name
        pyproject = place / "pyproject.toml"
        if pyproject.is_file() and TOML_TABLE in pyproject.read_text("utf-8", errors="replace"):
            return pyproject
    return None


def _rule_files(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
        return
    if not folder.is_dir():
        raise InputError(
            str(folder), "does not exist", "a folder of rule files", "Check the path after --rules"
        )
    try:
        paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    except OSError as error:
        raise InputError(
            str(folder), f"cannot be read: {error.strerror}", "a folder of rule files",
            "Check its permissions",
        ) from error  # fmt: skip
    found = False
    for path in paths:
        if not path.name.startswith("."):
            found = True
            yield path
    if not found:
        raise InputError(
            str(folder), "holds no rule file", "files NAME.yaml or FAMILY/NAME.yaml",
            "d2check rules new FAMILY/NAME prints one to start from",
        )  # fmt: skip


def _read(path: Path, *, whole: bool) -> Document:
    try:
        text = read_text(path, "a rule file")
        return read_yaml(text if whole else text.partition(_EXAMPLES)[0], str(path))
    except InputError as error:
        document = Document(str(path))
        document.problems.append(Problem(str(path), 1, 1, error.found))
        return document


def _check_id(rule: Rule, path: Path, document: Document, folder: Path) -> None:
    wanted = path.relative_to(folder).with_suffix("").as_posix() if path != folder else path.stem
    if "/" not in wanted:  # a user's flat folder: the family is in the id only
        wanted = f"{rule.id.partition('/')[0]}/{wanted}"
    if wanted != rule.id and not wanted.endswith("/" + rule.id):
        document.report(("id",), f"id is {rule.id!r}, but the file's place says {wanted!r}")


def _check_together(rules: Sequence[tuple[Rule, Document]], *, some_are_broken: bool) -> None:
    first: dict[str, Document] = {}
    for rule, document in rules:
        if rule.id in first:
            document.report(("id",), f"id {rule.id!r} is taken by {first[rule.id].path}")
        first.setdefault(rule.id, document)
    causes = {rule.id: [cause.rule for cause in rule.explained_by] for rule, _ in rules}
    for rule, document in rules:
        for index, cause in enumerate(causes[rule.id]):
            where = ("explained_by", index)
            if cause not in first:
                if not some_are_broken:  # it may be one of the files that did not load
                    document.report(
                        where, f"explained_by names {cause!r}; no such rule" + nearest(cause, first)
                    )
            elif _leads_to(cause, rule.id, causes):
                document.report(
                    where, f"explained_by {cause!r}, which is itself explained by {rule.id!r}"
                )


def _leads_to(start: str, goal: str, causes: Mapping[str, Sequence[str]]) -> bool:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        rule = waiting.pop()
        if rule == goal:
            return True
        if rule not in seen:
            seen.add(rule)
            waiting.extend(causes.get(rule, ()))
    return False
