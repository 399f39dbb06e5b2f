"""Self-contained HTML pages: no script runs and no address is opened, whatever the file names contain."""

import base64
import html
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from facepcl.errors import OptionError
from facepcl.utils.files import atomic, check_file

QUALITY = 85
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --ink: #1c2026; --soft: #59616e;
  --faint: #c3c8d0; --line: #e3e6eb; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --card: #1e2126; --ink: #e6e8eb;
  --soft: #a2a9b4; --faint: #4a515c; --line: #30353d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 16px; max-width: 1160px; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 24px; line-height: 1.25; margin: 8px 0 16px; }
h2 { font-size: 16px; margin: 0 0 2px; }
p { margin: 0 0 8px; }
.soft { color: var(--soft); font-size: 13px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 16px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px;
  margin: 0; min-width: 0; break-inside: avoid; }
.wide { grid-column: 1 / -1; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
@media print { :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --faint: #bbb; --line: #ccc; }
  body { max-width: none; padding: 0; font-size: 11px; }
  .cards { grid-template-columns: 1fr 1fr; gap: 8px; } }
"""


def check_page(path: str | Path, what: str = "page") -> None:
    """Raise OptionError, MissingPath or WriteError if no page can be written there: before the work."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"{path}: the name of a {what} must end in .html")
    check_file(path)
    if os.path.exists(path) and _POLICY.encode() not in path.read_bytes()[:400]:
        raise OptionError(f"{path} exists and is not a {what} of facepcl; choose another name, or delete it")


def save_page(path: str | Path, title: str, style: str, body: Iterable[str]) -> None:
    """Write a page, whole or not at all. `title` is text, `body` HTML."""
    head = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<h1>{escaped(title)}</h1>"""
    page = "\n".join([head, *body, "</body>\n</html>\n"])
    with atomic(path) as temporary:  # file names need not be UTF-8
        temporary.write_bytes(page.encode("utf-8", "replace"))


def inline_image(image: Image.Image, alt: str) -> str:
    """An `img` element with its pixels as a JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return f'<img width="{image.width}" height="{image.height}" alt="{escaped(alt)}" src="{source}">'


def escaped(value: Any) -> str:
    """A value as text of a page."""
    return html.escape(str(value))
