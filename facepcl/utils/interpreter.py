"""The Python interpreter that runs this program, for processes of our own."""

import os
import re
import sys
from pathlib import Path

NAME = re.compile(r"(python|pypy|graalpy)[\d.]*[a-z]{0,2}(-intel64)?(\.exe)?", re.IGNORECASE)


def find_interpreter() -> str | None:
    """The path of the interpreter, or None where there is none.

    In a program that embeds Python (uWSGI, Blender, R) `sys.executable` is that program or empty: to start it
    would start a second server. Frozen programs (PyInstaller) have no interpreter.
    """
    if getattr(sys, "frozen", False):
        return None
    # the name says the version: another one could not import what this one has
    names = [f"bin/python{sys.version_info[0]}.{sys.version_info[1]}"]
    if os.name == "nt":
        names = ["python.exe", r"Scripts\python.exe"]
    places = [str(Path(prefix) / name) for prefix in (sys.prefix, sys.base_prefix) for name in names]
    for place in (sys.executable or "", *places):
        if NAME.fullmatch(os.path.basename(place)) and os.path.isfile(place) and os.access(place, os.X_OK):
            return place
    return None
