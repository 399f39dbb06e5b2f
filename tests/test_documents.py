"""The documents: links resolve, code runs and prints what is written below it, the site builds."""

import os
import re
import subprocess
import sys
import unicodedata

import pytest
import readme
from helpers.files import ROOT

FOLDERS = ("*.md", "docs/*.md", "examples/**/*.md", "benchmarks/*.md", "tests/**/*.md")
PAGES = [page for folder in FOLDERS for page in ROOT.glob(folder)]
GUIDES = ("quickstart", "embed", "analyze", "search", "fine_tune", "pretrain", "probe", "scaling")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(page):
    """The anchors of a document's headings, as GitHub makes them."""
    found = []
    for heading in re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text("utf-8")), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        kept = [c for c in text if c in " -_" or unicodedata.category(c)[0] in "LN"]
        slug = "".join(kept).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return found


def test_links_between_documents_and_their_anchors_resolve():
    lost = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text("utf-8"))):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            if re.match(r"[a-z]+:", link):
                continue
            if not target.exists() or (anchor and anchor not in anchors(target)):
                lost.append(f"{page.relative_to(ROOT)}: {link}")
    assert not lost


def test_the_readme_has_two_screens():
    text = re.sub(r"^\|.*$", "", CODE.sub("", readme.README.read_text("utf-8")), flags=re.MULTILINE)
    assert len(re.sub(r"\]\([^)]*\)", "]", text).split()) <= 900


def test_the_table_of_models_is_that_of_the_card_and_the_benchmarks():
    assert f"<!-- models -->\n\n{readme.models_table()}\n\n<!-- end" in readme.README.read_text("utf-8")


def split_numbers(text):
    """The text without its numbers and spaces, and the numbers."""
    number = r"-?\d+(?:\.\d*)?"
    return re.sub(rf"{number}|\s", "", text), [float(n) for n in re.findall(number, text)]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "MODEL_CARD.md", *(f"docs/{name}.md" for name in GUIDES)])
def test_code_runs_and_prints_what_is_written_below_it(page, monkeypatch):
    """Blocks of `sh` need files that are not here. Numbers may differ a little between processors."""
    monkeypatch.chdir(ROOT)
    if page.endswith("probe.md"):
        pytest.importorskip("sklearn", reason="needs the extra facepcl[probe]")
    if page.endswith("scaling.md"):
        pytest.importorskip("pandas", reason="needs the extra facepcl[pandas]")
    blocks = readme.outputs((ROOT / page).read_text("utf-8"))
    assert blocks
    for printed, written in blocks:
        if written:
            (words, numbers), (expected, values) = split_numbers(printed), split_numbers(written)
            assert words == expected
            assert numbers == pytest.approx(values, rel=0.3, abs=0.03)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_no_other_host(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra facepcl[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    pages = [page.read_text("utf-8") for page in (tmp_path / "site").rglob("*.html")]
    assert len(pages) > 20
    fetched = r"<(?:script|img|iframe)[^>]*\ssrc=.?https?:|<link[^>]*(?:stylesheet|preconnect)[^>]*https?:"
    assert not [match for page in pages for match in re.findall(fetched, page)]
