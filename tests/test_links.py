"""Every relative link, anchor and page of the documents exists. No request is made: other hosts are not asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import DOCUMENTS, ROOT, headings, name_of, prose

OTHERS = ("CONTRIBUTING.md", "CHANGELOG.md", "TorchRay/README.md", "RISE/README.md")
EVERY = [*DOCUMENTS, *(ROOT / name for name in OTHERS), *sorted((ROOT / "examples").glob("*/README.md"))]
NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]


def links(document: Path) -> Iterator[str]:
    """Targets of links and pictures in the running text; code is no link."""
    text = re.sub(r"`[^`\n]+`", "", prose(document))
    for target in re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", text):
        if not re.match(r"https?://|mailto:", target):
            yield target


def anchors(document: Path) -> set[str]:
    """Of the headings: those that code hosts and MkDocs make alike."""
    made = [(hosted(title), paged(title)) for _, title in headings(document)]
    return {one for one, other in made if one == other}


def hosted(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def paged(title: str) -> str:
    plain = re.sub(r"[^\w\s-]", "", title.encode("ascii", "ignore").decode()).strip().lower()
    return re.sub(r"[-\s]+", "-", plain)


def broken(document: Path) -> list[str]:
    found = []
    for target in links(document):
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        if not linked.exists() or not linked.is_relative_to(ROOT):
            found.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(linked):
            found.append(f"{target}: no such heading")
    return found


@pytest.mark.parametrize("document", EVERY, ids=name_of)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert not broken(document)


def test_a_broken_link_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_links.ROOT", tmp_path)
    (tmp_path / "a.md").write_text("# One, two\n\n## 1 % of it\n\n`[x](code.md)`\n\n    [x](block.md)\n")
    page = tmp_path / "b.md"
    page.write_text(
        "# B\n\n[g](a.md#one-two) [g](#b) ![p](p.png) [m](a.md#three) [d](a.md#1-of-it) [o](/etc)\n"
    )
    assert [line.split(":")[0] for line in broken(page)] == ["p.png", "a.md#three", "a.md#1-of-it", "/etc"]
    assert not broken(tmp_path / "a.md")


def test_every_page_is_in_the_navigation() -> None:
    pages = re.findall(r": (\S+\.md)$", NAVIGATION, re.MULTILINE)
    assert sorted(pages) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in DOCUMENTS[1:])


def test_every_name_of_the_reference_exists() -> None:
    """What mkdocstrings would look for: modules, and the members that are listed."""
    import importlib

    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for module, members in re.findall(
            r"^::: ([\w.]+)\n    options:\n      members: (.*)$", text, re.MULTILINE
        ):
            found = importlib.import_module(module)
            names = re.findall(r"\w+", members) if members.startswith("[") else []
            assert members == "false" or names, f"{page.name}: {module}"
            assert all(getattr(found, name).__doc__ for name in names), f"{page.name}: {module}"
        assert text.count(":::") == len(
            re.findall(r"^::: [\w.]+\n    options:\n      members: ", text, re.MULTILINE)
        )
