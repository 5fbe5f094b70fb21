"""What images are called in shards."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence

from cgc.data.folders import IMAGE_SUFFIXES, PathTable
from cgc.data.shards.tar import is_safe

_WRITTEN = re.compile(r"%(25|2E)")
_OWN_SUFFIX = re.compile(rf"(.*)%({'|'.join(s[1:] for s in IMAGE_SUFFIXES)})\.[^./]+", re.IGNORECASE)
_ESCAPED_FOLDER, _ESCAPED_STEM = re.compile(r"[%\\\x00-\x1f\x7f]"), re.compile(r"[%.\\\x00-\x1f\x7f]")


def member_names(paths: Sequence[str]) -> list[str]:
    """Names of images in shards: their paths, with what WebDataset or a line cannot hold as %XX, and `jpg` for JPEG.

    Readers of WebDataset cut a name at the first dot of its last part, so dots in a stem are written as %2E. Where two
    images of a folder have the same stem, each name gets `%` and its own suffix; no two names are equal.
    """
    parts = [os.path.splitext(path) for path in paths]
    stems = [_escaped(stem) for stem, _ in parts]
    count = Counter(stems)
    names = []
    for stem, (_, suffix) in zip(stems, parts, strict=True):
        own = stem if count[stem] == 1 else f"{stem}%{suffix[1:]}"
        kind = suffix[1:].lower()
        names.append(f"{own}.{'jpg' if kind == 'jpeg' else kind}")
    return names


def image_names(members: PathTable) -> PathTable:
    """The paths of the images that :func:`member_names` called so: masks and the like lie under these.

    But JPEGs stay `.jpg` where no other suffix was kept, and what no line can hold stays %XX.
    """
    if b"%" not in members.to_bytes():
        return members
    return PathTable([_image_name(members[i]) for i in range(len(members))])


def _image_name(member: str) -> str:
    own = _OWN_SUFFIX.fullmatch(member)
    name = member if own is None else f"{own[1]}.{own[2]}"
    name = _WRITTEN.sub(lambda match: chr(int(match[1], 16)), name)
    return name if is_safe(name) else member


def _escaped(stem: str) -> str:
    folder, slash, name = stem.rpartition("/")

    def code(match: re.Match[str]) -> str:
        return f"%{ord(match[0]):02X}"

    return _ESCAPED_FOLDER.sub(code, folder) + slash + _ESCAPED_STEM.sub(code, name)
