"""Pascal-VOC annotations as people write them: one XML file per image, `<object>` elements with a `<bndbox>`."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from cgc.data.annotations import AnnotatedObject, MalformedAnnotation, box_from_corners

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_TEXTS = (["name"], ["difficult"], *(["bndbox", corner] for corner in _CORNERS))
_DEEPEST = 100  # levels of elements; a VOC file has five
_LARGEST = 64 << 20  # bytes; a VOC file has a few thousand


def read_voc(path: str | os.PathLike[str]) -> list[AnnotatedObject]:
    """Objects of one VOC file. Coordinates are 1-based and inclusive there; fractions widen to the pixels
    they touch.

    `<size>` and `<filename>` are not read: both are often missing or wrong, and the image itself knows
    better. Tags count whatever their case and namespace prefix; `<object>` elements at any depth; of tags
    that stand there twice the first.

    Raises:
        MalformedAnnotation: no XML (with the line), a document type or entity declaration (refused: entities
            can expand without bound or name other files), elements nested deeper than 100, an object without
            name or with missing or non-numeric coordinates (with the object's line).
    """
    try:
        size = os.path.getsize(path)
        if size > _LARGEST:
            raise MalformedAnnotation(f"has {size:,} bytes, which no annotation needs")
        text = Path(path).read_bytes()
    except OSError as error:
        raise MalformedAnnotation(error.strerror or str(error)) from error
    handler = _Objects()
    start = len(text) - len(text.lstrip()) if text.lstrip().startswith(b"<?xml") else 0
    handler.skipped_lines = text[:start].count(b"\n")
    try:
        handler.parser.Parse(text[start:], True)
    except expat.ExpatError as error:
        where = f"line {error.lineno + handler.skipped_lines}, column {error.offset + 1}"
        raise MalformedAnnotation(f"not well-formed XML: {where}: {expat.ErrorString(error.code)}") from error
    except MalformedAnnotation:
        raise
    except (ValueError, LookupError) as error:  # an encoding that Python lacks, or that expat cannot use
        raise MalformedAnnotation(f"not well-formed XML: {error}") from error
    return [_object(written, number) for number, written in enumerate(handler.finished, start=1)]


@dataclass
class _Written:
    """Texts of one `<object>`; `depth` of its element, and the line where it begins."""

    depth: int
    line: int
    texts: dict[str, str] = field(default_factory=dict)


class _Objects:
    """Collects objects while expat reads: no tree is built, so depth and size of the file cost nothing."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.skipped_lines = 0
        self.finished: list[_Written] = []
        self._open: list[_Written] = []
        self._tags: list[str] = []
        self._pieces: list[str] = []

    def _start(self, tag: str, attributes: object) -> None:
        if len(self._tags) >= _DEEPEST:
            raise MalformedAnnotation(f"elements nested deeper than {_DEEPEST}")
        name = tag.rpartition(":")[2].lower()
        self._tags.append(name)
        self._pieces = []
        if name == "object":
            line = self.parser.CurrentLineNumber + self.skipped_lines
            self._open.append(_Written(len(self._tags), line))

    def _text(self, text: str) -> None:
        self._pieces.append(text)

    def _end(self, tag: str) -> None:
        if self._open:
            written = self._open[-1]
            inner = self._tags[written.depth :]
            if not inner:
                self.finished.append(self._open.pop())
            elif inner in _TEXTS:
                written.texts.setdefault(inner[-1], "".join(self._pieces))
        self._tags.pop()
        self._pieces = []

    def _refuse(self, *declaration: object) -> None:
        raise MalformedAnnotation("holds a document type or entity declaration, which is refused")


def _object(written: _Written, number: int) -> AnnotatedObject:
    texts = written.texts
    name = texts.get("name", "").strip()
    if not name.isprintable():
        name = " ".join(name.split())  # broken over lines
    where = f"line {written.line}: object {number}"
    if not name:
        raise MalformedAnnotation(f"{where} has no name")
    values = []
    for tag in _CORNERS:
        text = texts.get(tag)
        try:
            value = float(text if text is not None else "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise MalformedAnnotation(f"{where} ({name}): {tag} is {text!r}, not a number")
        values.append(value)
    difficult = texts.get("difficult", "").strip().lower() in ("1", "true", "yes")
    return AnnotatedObject(name, box_from_corners(*values), difficult)
