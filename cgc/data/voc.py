"""Pascal-VOC annotations as people write them: one XML file per image, `<object>` elements with a
`<bndbox>`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

Box = tuple[int, int, int, int]


class MalformedAnnotation(ValueError):
    """The file is not a usable annotation; the message says why, without the path."""


@dataclass(frozen=True)
class AnnotatedObject:
    """One object: class name as written, box x0 y0 x1 y1 (0-based, inclusive, not clipped), VOC's
    difficult flag.
    """

    name: str
    box: Box
    difficult: bool = False


def read_voc(path: str | os.PathLike[str]) -> list[AnnotatedObject]:
    """Objects of one VOC file. Coordinates are 1-based and inclusive there; fractions widen to the pixels
    they touch.

    `<size>` and `<filename>` are not read: both are often missing or wrong, and the image itself knows
    better.

    Raises:
        MalformedAnnotation: no XML, a document type or entity declaration (refused: entities can expand
            without bound or name other files), an object without name or with missing or non-numeric
            coordinates.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise MalformedAnnotation(error.strerror or str(error)) from error
    plain = text.replace(b"\0", b"")  # UTF-16 hides the keywords between zero bytes
    if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
        raise MalformedAnnotation("holds a document type or entity declaration, which is refused")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise MalformedAnnotation(f"not well-formed XML: {error}") from error
    return [_object(element, number) for number, element in enumerate(root.iter("object"), start=1)]


def _object(element: ElementTree.Element, number: int) -> AnnotatedObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise MalformedAnnotation(f"object {number} has no name")
    values = []
    for tag in ("xmin", "ymin", "xmax", "ymax"):
        written = element.findtext(f"bndbox/{tag}")
        try:
            value = float(written if written is not None else "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise MalformedAnnotation(f"object {number} ({name}): {tag} is {written!r}, not a number")
        values.append(value)
    x0, y0, x1, y1 = values
    box = (math.floor(x0) - 1, math.floor(y0) - 1, math.ceil(x1) - 1, math.ceil(y1) - 1)
    difficult = (element.findtext("difficult") or "").strip().lower() in ("1", "true", "yes")
    return AnnotatedObject(name, box, difficult)
