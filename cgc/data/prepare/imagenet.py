"""ImageNet (ILSVRC 2012): class folders for training, held-out images by class or in one folder, boxes as XML."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from cgc.data.annotations import MalformedAnnotation
from cgc.data.class_names import imagenet_wnids
from cgc.data.prepare.job import Job, items, read_mat, small_files
from cgc.data.prepare.sources import ArchiveFile
from cgc.data.voc import read_voc
from cgc.errors import InputError

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT, BOXES = "ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_bbox_val_v3.tgz"
IMAGENET_FILES = (
    ArchiveFile(TRAIN, "training images, an archive for every class", optional=True),
    ArchiveFile(VAL, "held-out images", optional=True),
    ArchiveFile(DEVKIT, "classes of the held-out images", optional=True),
    ArchiveFile(BOXES, "boxes of the held-out images", optional=True),
)
BOXED_FILES = (ArchiveFile(VAL, "held-out images"), ArchiveFile(BOXES, "their boxes"))
_TRAINING = re.compile(r"(n\d{8})/(\1_\d+\.JPEG)")
_HELD_OUT = re.compile(r"ILSVRC2012_val_(\d{8})")
_META, _TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"


def lacking(given: set[str]) -> str | None:
    """What `imagenet` cannot do without, in a sentence; None if it is there."""
    if not given & {TRAIN, VAL}:
        return f"give {TRAIN}, {VAL} or both"
    if VAL in given and not given & {DEVKIT, BOXES}:
        return f"the classes of {VAL} stand in {DEVKIT} (needs scipy) or {BOXES}: give one of them"
    return None


def convert_imagenet(job: Job) -> None:
    """`train/<wnid>/*`, `val/<wnid>/*` and, with the boxes, `annotation/*.xml`."""
    _unpack_boxes(job)
    if not job.unpacked(VAL):
        folder_of = _devkit_classes(job) if DEVKIT in job.archives else _classes_from_boxes(job)

        def held_out(name: str) -> str | None:
            number = _number(name, ".JPEG")
            if number is None:
                return None
            if number not in folder_of:
                raise InputError(f"{job.archives[VAL]}: no class is known of {name}")
            return f"val/{folder_of[number]}/{PurePosixPath(name).name}"

        job.unpack(VAL, held_out)
    job.unpack(TRAIN, _training, nested=True)


def convert_boxed(job: Job) -> None:
    """`val/*.JPEG` in one folder and `annotation/*.xml`: what localisation is scored on."""
    _unpack_boxes(job)
    job.unpack(VAL, lambda name: _beside(name, "val", ".JPEG"))


def _training(name: str) -> str | None:
    folder, _, file = name.rpartition("/")
    inner = f"{PurePosixPath(folder).name}/{file}"
    return f"train/{inner}" if _TRAINING.fullmatch(inner) else None


def _unpack_boxes(job: Job) -> None:
    job.unpack(BOXES, lambda name: _beside(name, "annotation", ".xml"))


def _beside(name: str, folder: str, suffix: str) -> str | None:
    return None if _number(name, suffix) is None else f"{folder}/{PurePosixPath(name).name}"


def _number(name: str, suffix: str) -> int | None:
    path = PurePosixPath(name)
    match = _HELD_OUT.fullmatch(path.stem)
    return int(match[1]) if match and path.suffix == suffix else None


def _devkit_classes(job: Job) -> dict[int, str]:
    """WordNet id by the number of a held-out image, by the development kit's two files."""
    kit = job.archives[DEVKIT]
    files = small_files(kit, (_META, _TRUTH))
    (synsets,) = read_mat(f"{kit}: {_META}", files[_META], "synsets")
    try:
        leaves = [entry for entry in items(synsets) if int(entry["num_children"]) == 0]
        wnid_of = {int(entry["ILSVRC2012_ID"]): str(entry["WNID"]) for entry in leaves}
        numbers = [int(word) for word in files[_TRUTH].split()]
        classes = {index: wnid_of[number] for index, number in enumerate(numbers, start=1)}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{kit}: {_META} and {_TRUTH} are not as ImageNet's development kit has them"
        ) from error
    _refuse_unknown(set(classes.values()), str(kit))
    return classes


def _classes_from_boxes(job: Job) -> dict[int, str]:
    """WordNet id by number, by the objects' names: they are of the image's own class."""
    found: dict[int, str] = {}
    paths = sorted((job.out / "annotation").glob("ILSVRC2012_val_*.xml"))
    with job.progress(total=len(paths), unit="file", desc="classes") as bar:
        for path in paths:
            try:
                names = {item.name for item in read_voc(path)}
            except MalformedAnnotation as error:
                raise InputError(f"{path}: {error}") from error
            number = _number(path.name, ".xml")
            if len(names) != 1 or number is None:
                raise InputError(f"{path}: names {len(names)} classes, so the image's own needs {DEVKIT}")
            found[number] = names.pop()
            bar.update()
    _refuse_unknown(set(found.values()), str(job.out / "annotation"))
    return found


def _refuse_unknown(wnids: set[str], where: str) -> None:
    """These become names of folders."""
    unknown = sorted(wnids - set(imagenet_wnids()))
    if unknown:
        raise InputError(f"{where}: {unknown[0]!r} is none of ImageNet's 1000 ids")
