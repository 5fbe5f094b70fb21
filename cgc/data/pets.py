"""Oxford-IIIT Pet as distributed: `oxford-iiit-pet/{images, annotations/{trimaps, test.txt, trainval.txt}}`."""

from __future__ import annotations

from pathlib import Path

from cgc.data.annotations import AnnotatedImage, AnnotatedObject, Annotations, Choice, inside_folder
from cgc.data.class_names import first_twice
from cgc.data.masks import Trimap
from cgc.data.tables import table_rows
from cgc.errors import InputError

_SPLITS = ("test", "trainval")
_MOST_CLASSES = 10_000


def pets_folder(root: Path) -> Path | None:
    """The folder with `images` and `annotations`: `root` or its `oxford-iiit-pet`."""
    for folder in (root, root / "oxford-iiit-pet"):
        if (folder / "annotations" / "trimaps").is_dir() and (folder / "images").is_dir():
            return folder
    return None


def read_pets(root: Path, choice: Choice) -> Annotations:
    """Test images (or `trainval`), each with its breed and the trimap's foreground.

    The region is the trimap's pixels of value 1: its border (3) is not counted as animal. Trimaps are decoded
    only when asked for: rows have no boxes, whichever kind of region is chosen. Classes are the breeds as the
    files spell them, in the order of their numbers.

    Raises:
        InputError: layout or split not there, or a broken list.
    """
    choice.need(root, "Oxford-IIIT Pet", masks=True)
    folder = pets_folder(root)
    if folder is None:
        raise InputError(
            f"{root}: no Oxford-IIIT Pet in it (images, annotations/trimaps, annotations/test.txt)"
        )
    split = choice.split or "test"
    if split not in _SPLITS:
        raise InputError(f"{root}: Oxford-IIIT Pet has the splits test and trainval, not {split!r}")
    listing = folder / "annotations" / f"{split}.txt"
    entries = _entries(listing)
    breeds = _breeds(folder, entries)
    found = Annotations(f"Oxford-IIIT Pet {split}", classes=breeds)
    found.notes.append("regions are the trimaps' foreground, also where boxes are asked for")
    for key, number in entries:
        path = folder / "images" / f"{key}.jpg"
        trimap = folder / "annotations" / "trimaps" / f"{key}.png"
        if not trimap.is_file():
            found.skip("no annotation", str(path))
            continue
        item = AnnotatedObject(breeds[number - 1], None, part=Trimap(trimap))
        found.images.append(AnnotatedImage(path, [item]))
    return found


def _entries(listing: Path) -> list[tuple[str, int]]:
    """(image, class number) of each line `name class species breed`."""
    entries = []
    for line, fields in table_rows(listing, 2, comments=True):
        key, number = fields[0], fields[1].partition(" ")[0]
        usable = number.isdecimal() and len(number) < 9 and 1 <= int(number) <= _MOST_CLASSES
        if not inside_folder(key) or not usable:
            raise InputError(f"{listing}: line {line}: expected an image and the number of its class")
        entries.append((key, int(number)))
    return entries


def _breeds(folder: Path, entries: list[tuple[str, int]]) -> tuple[str, ...]:
    """Breed of every class number; the other list helps where this one lacks some."""
    names: dict[int, str] = {}
    others = [folder / "annotations" / f"{split}.txt" for split in _SPLITS]
    for key, number in entries + [entry for path in others if path.is_file() for entry in _entries(path)]:
        names.setdefault(number, _breed(key))
    breeds = tuple(names.get(number, f"class {number}") for number in range(1, max(names, default=0) + 1))
    if (twice := first_twice(breeds)) is not None:
        raise InputError(f"{folder / 'annotations'}: the lists give {twice!r} two class numbers")
    return breeds


def _breed(key: str) -> str:
    return key.rpartition("_")[0] or key
