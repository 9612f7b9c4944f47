"""The documentation site: it builds without a warning, and no page of it loads anything from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOADED = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(?P<source>[^"]+)"|<link\b[^>]*\bhref="(?P<link>[^"]+)"|url\((?P<style>[^)]+)\)'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert site / "index.html" in pages
    loaded = {
        (page.name, *filter(None, found.groups())) for page in pages for found in LOADED.finditer(page.read_text())
    }
    assert {name for name, _ in loaded} >= {"index.html"}
    assert [one for one in sorted(loaded) if re.match(r"""["']?(https?:)?//""", one[1])] == []


def test_the_http_page_shows_the_application_s_routes(site: Path) -> None:
    assert "/api/v1/runs" in (site / "http-api.html").read_text()


def test_the_reference_shows_docstrings(site: Path) -> None:
    assert "RoundPlan" in (site / "python-api.html").read_text()
