"""MkDocs hook: pages of the repository outside docs/, links between them, and the model zoo.

docs/ and the other documents link to each other as they lie in the repository, so that links work wherever
it is browsed. Here each document becomes a page of the site, other files that pages link to are copied, and
links are rewritten to match.
"""

import csv
import io
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from readme import ROOT, bundled_weights, card_table

LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
HOME = {"README.md": "index.md"}
ZOO, RESULTS = "models.md", ("scores", "heads", "pairs", "cosines", "series", "groups")
TITLES = {
    "scores": "Linear probes on frozen codes",
    "heads": "Head accuracy",
    "pairs": "Verification",
    "cosines": "Similarity of identities",
    "series": "Disentanglement",
    "groups": "Results by subgroup",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/ that the navigation names, and whatever pages link to."""
    for name in RESULTS:
        files.append(File.generated(config, f"results/{name}.csv", content=_csv(card_table(name))))
    files.append(File.generated(config, ZOO, content=model_zoo()))
    waiting = ["README.md", *_in_nav(config.nav), *(_repository_path(file.src_uri) for file in files)]
    while waiting:
        path = waiting.pop()
        uri = _site_path(path)
        if files.get_file_from_path(uri) is None and (ROOT / path).is_file():
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
            waiting.append(path)
        elif path.endswith(".md") and (ROOT / path).is_file():
            text = (ROOT / path).read_text("utf-8")
            found = [target for target in _targets(text, path) if (ROOT / target).is_file()]
            waiting += [target for target in found if files.get_file_from_path(_site_path(target)) is None]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between files of the repository to links between pages."""
    own, here = _repository_path(page.file.src_uri), posixpath.dirname(page.file.src_uri)

    def rewritten(match: re.Match[str]) -> str:
        label, link = match.groups()
        path, mark, anchor = link.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        target = _site_path(_resolved(path, own))
        if files.get_file_from_path(target) is None and not Path(target).suffix:
            return label[1:-1]  # a folder without a page
        return f"{label}({posixpath.relpath(target, here or '.')}{mark}{anchor})"

    pieces = CODE.split(markdown)
    pieces[::2] = LINK.sub(rewritten, "\x00".join(pieces[::2])).split("\x00")  # labels may hold code
    return "".join(pieces)


def _in_nav(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield _repository_path(nav)
    for item in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _in_nav(item)


def _targets(text: str, path: str) -> Iterator[str]:
    """Paths in the repository that a document links to; of a folder its README.md."""
    for _, link in LINK.findall(text):
        if not re.match(r"[a-z]+:|#", link):
            yield _resolved(link.partition("#")[0], path)


def _resolved(link: str, path: str) -> str:
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return f"{target}/README.md" if (ROOT / target / "README.md").is_file() else target


def _site_path(path: str) -> str:
    return HOME.get(path) or path.removeprefix("docs/")


def _repository_path(uri: str) -> str:
    """The inverse of `_site_path`; pages that are made here count as pages of docs/."""
    if uri == "index.md":
        return "README.md"
    return uri if (ROOT / uri).is_file() else f"docs/{uri}"


def _csv(table: str) -> str:
    heading, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([heading, *rows])
    return written.getvalue()


def model_zoo() -> str:
    """The page of the bundled weights, from their index and the tables of the model card."""
    parts = [
        "# Model zoo\n\nThese weights come with the package. `facepcl models` lists them, and every "
        "`--model` option and `facepcl.create_model` take their names. The [model card](../MODEL_CARD.md) "
        "says how they were trained and what they must not be used for.\n"
    ]
    for weights in bundled_weights():
        name = f"{weights['model']}.{weights['tag']}"
        heads = [f"`{head}`" for head in weights.get("heads", {}) if head != "version"]
        rows = {
            "input": f"{weights['input_size']} px, RGB in [0, 1]",
            "file": f"`{weights['file']}`, {weights['bytes']:,} bytes",
            "sha256": f"`{weights['sha256']}`",
            "licence": weights["license"],
            "training data": weights["training_data"],
            "training command": f"`{weights['command']}`",
            "heads": ", ".join(heads) or "none",
        }
        table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
        parts.append(f"## {name}\n\n| property | value |\n|---|---|\n{table}\n")
    parts.append(
        "## Results\n\nThe tables are those of the [model card](../MODEL_CARD.md#results), which "
        "describes data and protocols.\n"
    )
    for name in RESULTS:
        parts.append(f"### {TITLES[name]}\n\n[{name}.csv](results/{name}.csv)\n\n{card_table(name)}\n")
    return "\n".join(parts)
