"""Keeps secrets out of everything that a run folder stores of commands, environment and output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MASK = "***"

# A value shorter than this is too likely an ordinary word of the child's output.
MIN_SECRET_CHARS = 8

_WORDS = (
    r"TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|PASSPHRASE|API[-_]?KEY|ACCESS[-_]?KEY|CREDENTIAL|PRIVATE"
)
_NAME = re.compile(_WORDS, re.IGNORECASE)
_IDENTIFIER = re.compile(r"-{0,2}[A-Za-z_][\w.-]*")
_PLAIN = re.compile(r"(?i:true|false|none|null|yes|no)|[-+]?\d{1,6}(\.\d*)?")

# Bounded repeats throughout: an unbounded one before the decisive word makes a line without
# spaces cost the square of its length.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{1,20}://)([^\s/@:]{0,200}):([^\s/@]{1,500})@")
_URL_TOKEN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{1,20}://)([^\s/@:]{20,500})@")
_ASSIGNED = re.compile(
    rf"((?:{_WORDS}|\bX-Amz-Signature|\bsig(?==))[\w-]{{0,40}})"
    r"(['\"]?\s{0,3}[=:]\s{0,3}['\"]?)([^\s'\",;&()\[\]{}]{1,4000})",
    re.IGNORECASE,
)
_OPTION = re.compile(
    rf"((?<!\S)--?[\w-]{{0,40}}?(?:{_WORDS})[\w-]{{0,40}}\s{{1,3}})([^\s-]\S{{0,4000}})",
    re.IGNORECASE,
)
_BEARER = re.compile(
    r"(\bBearer\s{1,3}|\bAuthorization:\s{0,3}\w{1,20}\s{1,3})([\w.~+/=-]{8,})", re.I
)
# Published prefixes of the services' own keys, and W&B's 40 hex digits only where a key is named.
_SHAPES = re.compile(
    r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bhf_[A-Za-z0-9]{20,}|\bAIza[\w-]{30,}"
    r"|\bxox[abeoprs]-[\w-]{10,}|\bsk-[\w-]{20,}"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"
)
_WANDB = re.compile(r"((?:wandb[ _-]?(?:login|key)|\bkey)\W{1,3})[0-9a-f]{40}\b", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a variable, option or config key of this name holds a secret."""
    return bool(_NAME.search(name.rpartition(".")[2]))


@dataclass(frozen=True)
class Redactor:
    """Masks secrets by their names, by their shapes, and by the values that this run knows.

    values: matches every known secret value, or None when there is none.
    """

    values: re.Pattern[str] | None = None

    def text(self, text: str) -> str:
        """The text with every secret replaced by `***`."""
        if self.values is not None:
            text = self.values.sub(MASK, text)
        text = _SHAPES.sub(MASK, text)
        if "://" in text:
            text = _URL.sub(rf"\1\2:{MASK}@", text)
            text = _URL_TOKEN.sub(rf"\1{MASK}@", text)
        text = _BEARER.sub(rf"\1{MASK}", text)
        text = _WANDB.sub(rf"\1{MASK}", text)
        if _NAME.search(text) or "sig" in text.lower():
            text = _OPTION.sub(rf"\1{MASK}", text)
            text = _ASSIGNED.sub(_mask_assigned, text)
        return text

    def command(self, command: Sequence[str]) -> list[str]:
        """A command line or a KEY VALUE list; the word after a secret's name is masked whole."""
        masked: list[str] = []
        after_name = False
        for word in command:
            masked.append(MASK if after_name else self.text(word))
            after_name = (
                not after_name
                and bool(_IDENTIFIER.fullmatch(word))
                and is_secret_name(word)
                and not word.endswith((".py", ".yaml", ".yml"))
            )
        return masked

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Variables with the values of secret ones masked."""
        return {
            name: MASK if _is_secret(name, value) else self.text(value)
            for name, value in environment.items()
        }

    def data(self, value: Any, name: str = "") -> Any:
        """Plain nested data with secrets masked, by key and by shape."""
        if isinstance(value, str):
            return MASK if _is_secret(name, value) else self.text(value)
        if isinstance(value, Mapping):
            return {key: self.data(item, str(key)) for key, item in value.items()}
        if isinstance(value, Sequence):
            if all(isinstance(item, str) for item in value):
                return self.command(value)
            return [self.data(item, name) for item in value]
        return value


def redactor(environment: Mapping[str, str], command: Sequence[str] = ()) -> Redactor:
    """A redactor that knows the secret values of an environment and of a command or overrides."""
    found = [value for name, value in environment.items() if _is_secret(name, value)]
    previous = ""
    for word in command:
        if is_secret_name(previous) and _IDENTIFIER.fullmatch(previous):
            found.append(word)
        name, equals, value = word.partition("=")
        if equals and is_secret_name(name):
            found.append(value)
        previous = word
    return Redactor(_any_of(found))


def _any_of(secrets: Iterable[str]) -> re.Pattern[str] | None:
    # A key of several lines is printed line by line.
    parts = {line.strip() for secret in secrets for line in secret.splitlines()}
    parts = {part for part in parts if len(part) >= MIN_SECRET_CHARS}
    if not parts:
        return None
    return re.compile("|".join(re.escape(part) for part in sorted(parts, key=len, reverse=True)))


def _is_secret(name: str, value: str) -> bool:
    return bool(value) and is_secret_name(name) and not _is_plain(name, value)


def _is_plain(name: str, value: str) -> bool:
    """MAX_TOKENS=512 and USE_TOKEN=true are no secrets; PASSWORD=1234 is one."""
    return bool(_PLAIN.fullmatch(value)) and not re.search(
        r"PASSW|PASSPHRASE|SECRET|KEY", name, re.IGNORECASE
    )


def _mask_assigned(match: re.Match[str]) -> str:
    name, between, value = match.groups()
    calls = match.string[match.end() : match.end() + 1] in ("(", "[")
    if calls or value == MASK or _is_plain(name, value):
        return match.group()
    return f"{name}{between}{MASK}"
