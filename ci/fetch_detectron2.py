"""Fetch the pinned Detectron2 sdist without running any of its code.

``pip download`` asks an sdist for its metadata and so runs its setup.py. This reads the index
page itself, as pip is configured to find it, and takes the one file whose sha256 is pinned.
Standard library only.
"""

from __future__ import annotations

import argparse
import ast
import base64
import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

from build_detectron2 import SDIST_NAME, SDIST_SHA256, BuildError, verify_sha256

PROJECT = "pb1-detectron2"
PYPI = "https://pypi.org/simple"
SDIST_VARIABLE = "D2CHECK_DETECTRON2_SDIST"
CACHE = Path(__file__).resolve().parent / ".cache"
TIMEOUT_S = 60.0
ATTEMPTS = 3
# PEP 691, then PEP 503 for indexes that only speak HTML.
ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


class FetchError(Exception):
    """No configured place gave the pinned sdist; the message says what each one answered."""


@dataclass(frozen=True)
class PipSettings:
    """What pip would use to reach its index; `indexes` in the order to try."""

    indexes: tuple[str, ...]
    cert: str | None
    proxy: str | None


def parse_pip_config(listing: str) -> PipSettings:
    """Read the output of ``pip config list``.

    One ``section.key='value'`` a line. Sections win as in pip: global, then install and
    download, then the environment.
    """
    ranks = {"global": 0, "install": 1, "download": 2, ":env:": 3}
    chosen: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        name, found, quoted = line.partition("=")
        section, _, key = name.rpartition(".")
        if not found or section not in ranks:
            continue
        rank = ranks[section]
        if key not in chosen or rank >= chosen[key][0]:
            chosen[key] = (rank, str(ast.literal_eval(quoted)))
    values = {key: value for key, (_, value) in chosen.items()}
    indexes = [values.get("index-url", PYPI), *values.get("extra-index-url", "").split()]
    return PipSettings(
        indexes=tuple(dict.fromkeys(index.rstrip("/") for index in indexes)),
        cert=values.get("cert"),
        proxy=values.get("proxy"),
    )


def pip_settings() -> PipSettings:
    """Ask this interpreter's pip; without pip the public index and the system's certificates."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    return parse_pip_config(listing.stdout if listing.returncode == 0 else "")


def sdist_url(page: bytes, content_type: str, page_url: str) -> str | None:
    """The address of the pinned sdist on an index page, JSON (PEP 691) or HTML (PEP 503)."""
    if "json" in content_type:
        for file in json.loads(page)["files"]:
            if file["filename"] == SDIST_NAME:
                return urljoin(page_url, str(file["url"]))
        return None
    anchors = _Anchors()
    anchors.feed(page.decode("utf-8", "replace"))
    for href in anchors.hrefs:
        address = urldefrag(urljoin(page_url, href)).url
        if unquote(urlsplit(address).path).rpartition("/")[2] == SDIST_NAME:
            return address
    return None


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.hrefs.append(href)


def _opener(settings: PipSettings) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = []
    if settings.cert:
        context = ssl.create_default_context(cafile=settings.cert)
        handlers.append(urllib.request.HTTPSHandler(context=context))
    if settings.proxy:
        handlers.append(
            urllib.request.ProxyHandler({"http": settings.proxy, "https": settings.proxy})
        )
    return urllib.request.build_opener(*handlers)


def _read(opener: urllib.request.OpenerDirector, url: str) -> tuple[bytes, str]:
    """Content and content type; the user and password of `url` travel as a header, as with pip."""
    parts = urlsplit(url)
    headers = {"Accept": ACCEPT, "User-Agent": "d2check-setup"}
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(credentials.encode()).decode()
        url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    request = urllib.request.Request(url, headers=headers)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                return answer.read(), answer.headers.get("content-type", "")
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS:
                raise
        except OSError:
            if attempt == ATTEMPTS or parts.scheme == "file":
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def download(settings: PipSettings) -> bytes:
    """The pinned sdist from the first index that has it.

    Raises `FetchError` with every index's answer when none has it, or has another file.
    """
    opener = _opener(settings)
    answers: list[str] = []
    for index in settings.indexes:
        page_url = f"{index}/{PROJECT}/"
        if index.startswith("file:"):
            page_url += "index.html"
        try:
            page, content_type = _read(opener, page_url)
            address = sdist_url(page, content_type, page_url)
            if address is None:
                answers.append(f"{_without_password(page_url)}: does not list {SDIST_NAME}")
                continue
            sdist, _ = _read(opener, address)
            verify_sha256(sdist, SDIST_SHA256, source=_without_password(address))
            return sdist
        except (OSError, ValueError, BuildError) as error:
            answers.append(f"{_without_password(page_url)}: {error}")
    raise FetchError(
        f"could not fetch {SDIST_NAME}:\n  "
        + "\n  ".join(answers)
        + f"\nPoint pip at an index that has it (PIP_INDEX_URL), or download the file on another "
        f"machine and either put it at ci/.cache/{SDIST_NAME} or set {SDIST_VARIABLE} to its path."
    )


def local_sdist(environment: Mapping[str, str], cache: Path = CACHE) -> Path | None:
    """The file the user gave by hand, if any.

    Raises `FetchError` when the variable names a file that is not there.
    """
    named = environment.get(SDIST_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise FetchError(f"{SDIST_VARIABLE}={named}: no such file")
        return Path(named)
    cached = cache / SDIST_NAME
    return cached if cached.is_file() else None


def fetch(folder: Path) -> Path:
    """Put the verified sdist into `folder` and return its path.

    Raises `FetchError` when it cannot be had and `BuildError` when a file given by hand is
    another one.
    """
    given = local_sdist(os.environ)
    if given is not None:
        sdist = given.read_bytes()
        verify_sha256(sdist, SDIST_SHA256, source=str(given))
    else:
        sdist = download(pip_settings())
    target = folder / SDIST_NAME
    target.write_bytes(sdist)
    return target


def main(arguments: list[str] | None = None) -> int:
    """Fetch from the command line; 0 on success, 1 with one message otherwise."""
    parser = argparse.ArgumentParser(description="Fetch the pinned Detectron2 sdist.")
    parser.add_argument("folder", type=Path, help="where to put it")
    options = parser.parse_args(arguments)
    try:
        print(fetch(options.folder))
    except (FetchError, BuildError, OSError) as error:
        print(f"fetch_detectron2: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
