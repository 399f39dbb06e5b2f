"""Known weaknesses and the licences of what facepcl brings along: `make audit`.

The first part is pip-audit, which asks a public database, so it needs a network; the second reads what is
installed.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

# As licence expressions and classifiers name them. Weak copyleft binds changes to the package itself.
FREE = r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Zlib|Unlicense|CC0|HPND|Boost|BSL-1"
WEAK = r"MPL|Mozilla|LGPL|Lesser General"
STRONG = r"(?<!L)(?<!Lesser )\bA?GPL|(?<!Lesser )General Public License|Affero"
EXTRAS = ("", "parquet", "heic", "jxl", "probe", "tensorboard", "align", "onnx", "demo", "synth", "s3", "ray")


def installed(extras: Sequence[str]) -> dict[str, Distribution]:
    """facepcl's dependencies with these extras, and theirs, by name; those that are not installed are left
    out."""
    found: dict[str, Distribution] = {}
    waiting = [("facepcl", extra) for extra in extras]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            here = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = here
        for line in here.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                plain = re.sub(r"[-_.]+", "-", needed.name).lower()
                new = {(plain, e) for e in ("", *needed.extras)} - seen
                seen |= new
                waiting += sorted(new)
    found.pop("facepcl", None)
    return dict(sorted(found.items()))


def licence(of: Distribution) -> str:
    """What a package says of its licence, in one line; "" if it says nothing."""
    said = of.metadata.get("License-Expression") or ""
    classified = [
        line.rpartition(" :: ")[2]
        for line in of.metadata.get_all("Classifier") or ()
        if line.startswith("License :: ") and not line.endswith("OSI Approved")
    ]
    text = said or ", ".join(classified) or of.metadata.get("License") or ""
    return " ".join(text.split())[:80]


def verdict(text: str) -> str:
    """Nothing for a free licence; else why somebody should look."""
    if re.search(STRONG, text):
        return "copyleft"
    if re.search(WEAK, text):
        return "weak copyleft"
    if re.search("Proprietary", text):
        return "proprietary"
    return "" if re.search(FREE, text) else "unknown"


def licences(extras: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """Name, version, licence and verdict of each dependency."""
    for name, found in installed(extras).items():
        yield name, found.version, licence(found), verdict(licence(found))


def weaknesses(rows: Sequence[tuple[str, str, str, str]]) -> int:
    """Ask pip-audit about exactly these versions; it fails, too, if the database does not know one."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "installed.txt"
        # what follows a + is of one's own build
        asked.write_text("".join(f"{name}=={version.partition('+')[0]}\n" for name, version, *_ in rows))
        options = ["--strict", "--no-deps", "--disable-pip", "--progress-spinner=off"]
        return subprocess.run(
            [sys.executable, "-m", "pip_audit", "-r", asked, *options], check=False
        ).returncode


def main() -> int:
    """0: no known weakness and no strong copyleft; 1: one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--offline", action="store_true", help="licences only")
    args = parser.parse_args()
    rows = list(licences(EXTRAS))
    for name, version, said, found in rows:
        print(f"{name:28} {version:14} {said or '-':60} {found}".rstrip())
    flagged = [row for row in rows if row[3]]
    print(f"{len(rows)} packages, to look at: {', '.join(f'{r[0]} ({r[3]})' for r in flagged) or 'none'}")
    code = int(any(row[3] == "copyleft" for row in flagged))
    if not args.offline:
        code |= weaknesses(rows)
    return code


if __name__ == "__main__":
    sys.exit(main())
