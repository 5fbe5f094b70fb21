"""Class maps: a dataset's category stands for one or several classes of the model."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from cgc.errors import InputError

_TEMPLATE = "unrel_class_map_template.txt"


def template_path() -> str:
    """Where the template file lies that explains the format."""
    return str(resources.files("cgc.data") / _TEMPLATE)


def read_class_map(path: str | Path, classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Category -> indices of `classes` that it stands for, in the order written.

    Text: a category, a tab (or a comma), and class names (WordNet ids) or indices separated by spaces; lines
    that begin with # are comments. JSON: an object from categories to such names or lists of them.

    Raises:
        InputError: not a readable file, a line or value of another form, a category twice, or a class that is
            not among `classes`; with the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"class map {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"class map {path}: not a text file") from error
    is_json = path.suffix.lower() == ".json" or text.lstrip().startswith("{")
    index_of = {name: index for index, name in enumerate(classes)}
    found: dict[str, tuple[int, ...]] = {}
    for line, category, names in _json_entries(path, text) if is_json else _text_entries(path, text):
        where = f"class map {path}: line {line}"
        if not category or not names:
            raise InputError(f"{where}: {category!r} stands for no class")
        if category in found:
            raise InputError(f"{where}: the category {category!r} stands there a second time")
        indices = []
        for name in names:
            index = index_of.get(name)
            if index is None and name.isdecimal() and len(name) < 10 and int(name) < len(classes):
                index = int(name)
            if index is None:
                raise InputError(
                    f"{where}: {name!r} is none of the {len(classes)} classes, nor the index of one"
                )
            indices.append(index)
        found[category] = tuple(dict.fromkeys(indices))
    if not found:
        raise InputError(f"class map {path}: maps no category")
    return found


def _text_entries(path: Path, text: str) -> Iterator[tuple[int, str, list[str]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if "\t" in line:
            category, *rest = line.split("\t")
        elif "," in line:
            try:
                category, *rest = next(csv.reader([line], skipinitialspace=True))
            except csv.Error as error:  # a cell of more than 128 KiB
                raise InputError(f"class map {path}: line {number}: {error}") from error
        else:
            raise InputError(f"class map {path}: line {number}: no tab or comma after the category")
        yield number, category.strip(), re.split(r"[\s,;]+", " ".join(rest).partition("#")[0].strip(" ,;\t"))


def _json_entries(path: Path, text: str) -> Iterator[tuple[int, str, list[str]]]:
    try:
        # Pairs, not a dict: of a category that stands there twice a dict would keep the last.
        content = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except json.JSONDecodeError as error:
        raise InputError(f"class map {path}: line {error.lineno}: no JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"class map {path}: no JSON that can be read") from error
    if not text.lstrip().startswith("{"):
        raise InputError(f"class map {path}: line 1: not an object from categories to classes")
    seen: dict[str, int] = {}
    for category, value in content:
        line = _line_of(text, category, seen.get(category, 0))
        seen[category] = seen.get(category, 0) + 1
        values: list[Any] = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) or type(item) is int for item in values):
            raise InputError(f"class map {path}: line {line}: {category!r} needs a list of classes")
        yield line, category.strip(), [str(item).strip() for item in values]


def _line_of(text: str, key: str, occurrence: int) -> int:
    """Line of a key's n-th occurrence; 1 where it is written with escapes and not found."""
    found = list(re.finditer(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:", text))
    return text.count("\n", 0, found[occurrence].start()) + 1 if occurrence < len(found) else 1
