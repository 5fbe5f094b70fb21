"""What the pages of `make docs` need: links that leave docs/, and the roles and doctests of docstrings."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+)[^)]+\)")
_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([\w.]+)`")
_DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Files of the repository outside of docs/ are no pages: their links become text."""
    depth = page.file.src_uri.count("/")
    return _LINK.sub(lambda link: link[1] if link[2].count("../") > depth else link[0], markdown)


class Docstrings(Extension):  # type: ignore[misc]
    """Names of roles become code, doctests code blocks; Markdown knows neither."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
