"""Extension of griffe, which reads docstrings for the site: `Example:` is a section, as `Examples:` is."""

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Rename the section, which griffe would take for a note."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
