"""Finding the sdist: index pages, pip's settings, files given by hand. No network."""

import hashlib
import json

import fetch_detectron2
import pytest
from build_detectron2 import SDIST_NAME, BuildError
from fetch_detectron2 import FetchError, PipSettings

PAGE = "https://index.example/simple/pb1-detectron2/"


def test_pip_without_settings_means_pypi():
    settings = fetch_detectron2.parse_pip_config("")

    assert settings == PipSettings(indexes=("https://pypi.org/simple",), cert=None, proxy=None)


def test_environment_wins_over_install_and_that_over_global():
    listing = "\n".join(
        [
            ":env:.index-url='https://env.example/simple/'",
            "global.cert='/global.pem'",
            "global.index-url='https://global.example/simple'",
            "install.cert='/install.pem'",
            "global.extra-index-url='file:///a https://b.example'",
            "freeze.index-url='https://of-no-concern.example'",
            "WARNING: something else",
        ]
    )

    settings = fetch_detectron2.parse_pip_config(listing)

    assert settings.indexes == (
        "https://env.example/simple",
        "file:///a",
        "https://b.example",
    )
    assert settings.cert == "/install.pem"


def test_sdist_is_found_on_a_json_page():
    page = {"files": [{"filename": "x.whl", "url": "x"}, {"filename": SDIST_NAME, "url": "../f/s"}]}

    url = fetch_detectron2.sdist_url(
        json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json", PAGE
    )

    assert url == "https://index.example/simple/f/s"


def test_sdist_is_found_on_an_html_page_and_the_fragment_dropped():
    page = f'<a href="other.tar.gz">o</a><a href="../../f/{SDIST_NAME}#sha256=1">s</a>'

    url = fetch_detectron2.sdist_url(page.encode(), "text/html", PAGE)

    assert url == f"https://index.example/f/{SDIST_NAME}"


@pytest.mark.parametrize(
    ("page", "kind"), [(b'{"files": []}', "application/json"), (b"", "text/html")]
)
def test_page_without_the_sdist_gives_none(page, kind):
    assert fetch_detectron2.sdist_url(page, kind, PAGE) is None


def index_with(folder, content: bytes) -> PipSettings:
    project = folder / fetch_detectron2.PROJECT
    project.mkdir(parents=True)
    (project / SDIST_NAME).write_bytes(content)
    (project / "index.html").write_text(f'<a href="{SDIST_NAME}">s</a>')
    return PipSettings(indexes=(folder.as_uri(),), cert=None, proxy=None)


def test_second_index_serves_where_the_first_does_not(tmp_path, monkeypatch):
    settings = index_with(tmp_path / "good", b"the sdist")
    monkeypatch.setattr(fetch_detectron2, "SDIST_SHA256", hashlib.sha256(b"the sdist").hexdigest())
    first = (tmp_path / "absent").as_uri()

    both = PipSettings(indexes=(first, *settings.indexes), cert=None, proxy=None)

    assert fetch_detectron2.download(both) == b"the sdist"


def test_file_with_another_hash_is_refused_and_the_way_out_is_told(tmp_path):
    settings = index_with(tmp_path, b"something else")

    with pytest.raises(FetchError, match=r"sha256 is(.|\n)*D2CHECK_DETECTRON2_SDIST"):
        fetch_detectron2.download(settings)


def test_passwords_of_an_index_are_not_printed():
    settings = PipSettings(indexes=("http://user:secret@127.0.0.1:1/s",), cert=None, proxy=None)

    with pytest.raises(FetchError) as caught:
        fetch_detectron2.download(settings)

    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_named_file_that_is_absent_is_an_error_and_not_ignored(tmp_path):
    with pytest.raises(FetchError, match="no such file"):
        fetch_detectron2.local_sdist({fetch_detectron2.SDIST_VARIABLE: "/nowhere"}, tmp_path)


def test_named_file_wins_over_the_cache(tmp_path):
    named = tmp_path / "mine.tar.gz"
    named.write_bytes(b"")
    (tmp_path / SDIST_NAME).write_bytes(b"")

    environment = {fetch_detectron2.SDIST_VARIABLE: str(named)}

    assert fetch_detectron2.local_sdist(environment, tmp_path) == named
    assert fetch_detectron2.local_sdist({}, tmp_path) == tmp_path / SDIST_NAME
    assert fetch_detectron2.local_sdist({}, tmp_path / "empty") is None


def test_file_given_by_hand_is_checked_as_well(tmp_path, monkeypatch):
    named = tmp_path / "mine.tar.gz"
    named.write_bytes(b"not it")
    monkeypatch.setenv(fetch_detectron2.SDIST_VARIABLE, str(named))

    with pytest.raises(BuildError, match=r"mine\.tar\.gz: sha256 is"):
        fetch_detectron2.fetch(tmp_path)
