"""What the preparations share: unpacking what is not unpacked yet, class folders, small files in archives."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.sax.saxutils import escape

from cgc.data.annotations import Annotations, inside_folder, shown
from cgc.data.mat_files import load_mat
from cgc.data.prepare.archives import members, read_member
from cgc.data.prepare.extraction import Place, Progress, extract, give_file
from cgc.data.prepare.state import State
from cgc.data.saliency_files import write_whole
from cgc.errors import InputError, RunError


@dataclass
class Job:
    """One dataset on its way into ``out``. ``archives``: by the name that they are distributed under."""

    out: Path
    variant: str
    archives: dict[str, Path]
    state: State
    progress: Progress
    say: Callable[[str], None]

    def has(self, name: str) -> bool:
        """Whether an archive is there, or is unpacked already."""
        return name in self.archives or name in self.state.parts

    def unpack(
        self,
        name: str,
        place: Place,
        *,
        nested: bool = False,
        change: Callable[[str, bytes], bytes] | None = None,
    ) -> None:
        """Unpack an archive, unless there is none or it was unpacked to the end before; see :func:`extract`."""
        path = self.archives.get(name)
        if path is None or self.unpacked(name):
            return
        done = extract(path, self.out, place, self.progress, nested=nested, change=change)
        self.state.note(path)
        self.say(f"{name}: {done.written} files written, {done.kept} were there, {done.left_out} not needed")

    def unpacked(self, name: str) -> bool:
        """Whether the archive was unpacked to the end before, or is not given."""
        path = self.archives.get(name)
        return path is None or self.state.parts.get(name) == path.stat().st_size

    def link(self, found: Annotations, split: str) -> None:
        """Give every image that a reader found a place in ``<split>/<class>/``, without copying it."""
        with self.progress(total=len(found.images), unit="image", desc=split) as bar:
            for image in found.images:
                if not inside_folder(os.path.relpath(image.path, self.out)):
                    raise InputError(f"{found.layout}: {shown(str(image.path))} lies outside of {self.out}")
                folder = class_folder(image.objects[0].name)
                give_file(image.path, self.out / split / folder / image.path.name)
                bar.update()

    def say_order(self, classes: Sequence[str]) -> None:
        """Say how to evaluate where sorted class folders are in another order than the dataset's own classes."""
        folders = [class_folder(name) for name in classes]
        if folders != sorted(folders):
            self.say(
                "class folders sort in another order than the dataset's own classes: evaluate with --classes "
                f"{self.out / 'train'}"
            )


def without_top(name: str, top: str) -> str | None:
    """The path below the folder ``top`` of an archive, or None if it lies elsewhere.

    >>> without_top("tiny-imagenet-200/val/a.JPEG", "tiny-imagenet-200"), without_top("other/a", "x")
    ('val/a.JPEG', None)
    """
    first, _, rest = name.partition("/")
    return rest if first == top and rest else None


def class_folder(name: str) -> str:
    """A folder name for a class.

    Raises InputError for a name that is none.

    >>> class_folder("F/A-18")
    'F-A-18'
    """
    folder = name.strip().replace("/", "-")
    if not folder or folder.startswith(".") or not inside_folder(folder):
        raise InputError(f"the class name {shown(name)} cannot be a folder's name")
    return folder


def small_files(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    """Files of an archive by their base name.

    Raises InputError where one is missing, or for a damaged archive.
    """
    found: dict[str, bytes] = {}
    for member in members(archive):
        base = PurePosixPath(member.name).name
        if base in names:
            found[base] = read_member(archive, member)
    missing = sorted(set(names) - set(found))
    if missing:
        raise InputError(f"{archive}: holds no {' and no '.join(missing)}; it is another archive")
    return found


def read_mat(where: object, data: bytes, *names: str) -> list[Any]:
    """Variables of a MATLAB file: structs as dictionaries, cells as lists.

    Raises InputError: scipy is missing, a broken file, or one without a variable.
    """
    try:
        content = load_mat(data, names)
    except InputError:  # scipy is missing
        raise
    except Exception as error:  # a broken file takes the reader to nearly any exception
        raise InputError(f"{where}: not a MATLAB file that can be read") from error
    for name in names:
        if name not in content:
            raise InputError(f"{where}: holds no variable {name!r}")
    return [content[name] for name in names]


def items(value: Any) -> list[Any]:
    """Elements of MATLAB's array or cell: a single one is not wrapped there.

    >>> items("a"), items([1, 2])
    (['a'], [1, 2])
    """
    if hasattr(value, "ravel"):
        return list(value.ravel().tolist())
    return list(value) if isinstance(value, list) else [value]


def write_voc(path: Path, name: str, boxes: Iterable[tuple[int, int, int, int]]) -> None:
    """Write a VOC XML file with objects of one class. Boxes: xmin ymin xmax ymax, 1-based, inclusive.

    Raises RunError.
    """
    lines = ["<annotation>"]
    for box in boxes:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        inner = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
        lines.append(f"<object><name>{escape(name)}</name><bndbox>{inner}</bndbox></object>")
    text = "\n".join([*lines, "</annotation>", ""])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: {error.strerror or error}") from error
