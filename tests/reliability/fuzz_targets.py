"""The readers of files that come from elsewhere, each with valid files to change and the errors that it documents."""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cgc.commands.config import apply_config, config_of
from cgc.commands.train_parser import build_parser
from cgc.data.boxes import open_boxes
from cgc.data.class_map import read_class_map
from cgc.data.class_names import read_classes
from cgc.data.decode import UnreadableImage, decode_data, decode_pixels
from cgc.data.folders import PathTable, open_class_folders
from cgc.data.image_headers import header_size
from cgc.data.label_subset import read_list
from cgc.data.negatives import negatives_from_coco, read_negatives, write_negatives
from cgc.data.saliency_files import MANIFEST, Manifest, read_grey
from cgc.data.shards.index import INDEX, RECORD, RECORDS, Shard, ShardIndex, read_index, write_index
from cgc.data.shards.scan import joined, scan_shard
from cgc.data.training_boxes import as_boxed_images, read_training_boxes
from cgc.data.voc import read_voc
from cgc.errors import InputError
from cgc.explainers.map_files import MapProblem, entry_name
from cgc.explainers.stored import StoredMaps
from cgc.models.backbones import TinyResNet
from cgc.models.checkpoint_layouts import load_weights, read_checkpoint, released_state_dict
from cgc.report.comparison import as_json, compare, text
from cgc.report.html.content import Model, read_predictions, read_summary
from cgc.report.html.page import write_page
from cgc.report.score_files import read_scores
from tests.data.boxed_fixture import coco_image, coco_json, coco_object, voc, voc_object
from tests.data.images import photograph
from tests.data.saliency_fixture import QUERY, WHOLE
from tests.reliability.fuzz_changes import Target

_BETWEEN = b"\n=8<=\n"  # between the files of an input that is several
_XML = b"<annotation> <object> </object> <name> <bndbox> <xmin> <!DOCTYPE <!ENTITY &a; &#0; <![CDATA[ ]]> <?xml".split()
_JSON = b'{ } [ ] : , "" null true NaN Infinity -0 1e400 "\\ud800" "\\u0000" [[ {"a":'.split()
_IMAGE_KINDS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "TGA", "ICO", "PCX", "JPEG2000", "DDS", "EPS")
TARGETS: dict[str, Target] = {}


def _target(
    name: str,
    seeds: Callable[[Path], list[bytes]],
    *,
    allowed: tuple[type[BaseException], ...] = (InputError,),
    tokens: list[bytes] | None = None,
    repair: Callable[[bytes], bytes] | None = None,
) -> Callable[[Callable[[Path, bytes], object]], Callable[[Path, bytes], object]]:
    """Registers the function below as a target's ``call``."""

    def register(call: Callable[[Path, bytes], object]) -> Callable[[Path, bytes], object]:
        TARGETS[name] = Target(name, seeds, call, allowed, tuple(tokens or ()), repair)
        return call

    return register


def _files(data: bytes, paths: list[Path]) -> None:
    """The files of an input; those that a change has cut off are empty."""
    parts = data.split(_BETWEEN)
    for number, path in enumerate(paths):
        _put(path, parts[number] if number < len(parts) else b"")


def _put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@functools.cache
def _png() -> bytes:
    buffer = io.BytesIO()
    photograph(40, 30).save(buffer, "PNG")
    return buffer.getvalue()


def _picture(path: Path) -> None:
    if not path.exists():
        _put(path, _png())


def _regions(folder: Path, **options: str) -> None:
    """Everything that an evaluation asks of the rows; regions may say that they cannot be had."""
    for image in open_boxes(folder, **options).images:
        try:
            assert image.region is not None
        except (ValueError, OSError):
            pass
        assert image.path.resolve().is_relative_to(folder.resolve())


def _voc_seeds(_: Path) -> list[bytes]:
    plain = voc(voc_object("cat", (1, 1, 50, 100)), voc_object("wild dog", (75.5, "1.0", 100.9, 99.2), 1))
    head = '<?xml version="1.0" encoding="utf-8"?>\n<filename>a.jpg</filename><size><width>7</width></size>'
    return [plain.encode(), voc(voc_object("cat", (1, 2, 3, 4)), head=head[39:]).encode(), head[:39].encode() + plain.encode()]


@_target("voc-xml", _voc_seeds, tokens=_XML)
def _voc(folder: Path, data: bytes) -> None:
    _picture(folder / "val" / "a.png")
    _put(folder / "annotation" / "a.xml", data)
    _put(folder / "names.txt", b"cat\nwild dog\n")
    _regions(folder, classes=str(folder / "names.txt"))


@_target("voc-training-boxes", _voc_seeds, tokens=_XML)
def _voc_training(folder: Path, data: bytes) -> None:
    _picture(folder / "train" / "cat" / "a.png")
    _put(folder / "xml" / "a.xml", data)
    images = open_class_folders(folder / "train")
    as_boxed_images(images, read_training_boxes(images, folder / "xml"))


def _voc_list_seeds(_: Path) -> list[bytes]:
    return [b"a\n", b"a 1\nb -1\n", b"b\r\na\r\n"]


@_target("voc-list", _voc_list_seeds)
def _voc_list(folder: Path, data: bytes) -> None:
    year = folder / "VOC2007"
    _picture(year / "JPEGImages" / "a.png")
    _put(year / "Annotations" / "a.xml", voc(voc_object("cat", (1, 1, 5, 5))).encode())
    _put(year / "ImageSets" / "Main" / "test.txt", data)
    _regions(folder)


def _cub_seeds(_: Path) -> list[bytes]:
    tables = (
        b"1 001.Cat/a.png\n2 002.Dog/b.png\n",
        b"1 0\n2 0\n",
        b"1 1\n2 2\n",
        b"1 0.0 1.5 20.0 10.25\n2 3.0 4.0 5.0 6.0\n",
    )
    return [_BETWEEN.join(tables), _BETWEEN.join(table.replace(b" ", b"\t") for table in tables)]


@_target("cub", _cub_seeds, tokens=[_BETWEEN])
def _cub(folder: Path, data: bytes) -> None:
    for name in ("001.Cat/a.png", "002.Dog/b.png"):
        _picture(folder / "images" / name)
    names = ("images", "train_test_split", "image_class_labels", "bounding_boxes")
    _files(data, [folder / f"{name}.txt" for name in names])
    _regions(folder)


def _pets_seeds(_: Path) -> list[bytes]:
    lists = b"#Image CLASS-ID SPECIES BREED\nAbyssinian_1 1 1 1\nbeagle_2 2 2 1\n", b"beagle_9 2 2 1\n"
    return [_BETWEEN.join(lists), _BETWEEN.join(each.replace(b" ", b"\t") for each in lists)]


@_target("pets", _pets_seeds, tokens=[_BETWEEN])
def _pets(folder: Path, data: bytes) -> None:
    for name in ("Abyssinian_1", "beagle_2"):
        _picture(folder / "images" / f"{name}.jpg")
        _picture(folder / "annotations" / "trimaps" / f"{name}.png")
    _files(data, [folder / "annotations" / f"{name}.txt" for name in ("test", "trainval")])
    _regions(folder)


def _aircraft_seeds(_: Path) -> list[bytes]:
    return [_BETWEEN.join((b"1 1 1 30 20\n2 3 4 5 6\n", b"1 A320\n2 707-320\n", b"707-320\nA320\n"))]


@_target("aircraft", _aircraft_seeds, tokens=[_BETWEEN])
def _aircraft(folder: Path, data: bytes) -> None:
    for name in "12":
        _picture(folder / "images" / f"{name}.jpg")
    _files(data, [folder / f"{name}.txt" for name in ("images_box", "images_variant_test", "variants")])
    _regions(folder)


def _tiny_seeds(_: Path) -> list[bytes]:
    rows = (("a.png", "n01", 0, 0, 10, 20), ("b.png", "n02", 3, 4, 39, 29), ("a.png", "n01", 5, 5, 6, 6))
    return [b"".join("\t".join(map(str, row)).encode() + b"\n" for row in rows), b"a.png n01 0 0 9 9\nb.png n02 1 1 9 9\n"]


@_target("tiny-imagenet-val", _tiny_seeds)
def _tiny_val(folder: Path, data: bytes) -> None:
    for name in "ab":
        _picture(folder / "val" / "images" / f"{name}.png")
    _put(folder / "val" / "val_annotations.txt", data)
    _put(folder / "wnids.txt", b"n02\nn01\n")
    images = open_class_folders(folder / "val")
    assert len(images.paths) == len(images.labels)
    for index in range(len(images)):
        assert images.path(index).resolve().is_relative_to(folder.resolve())
    _regions(folder)


def _tiny_train_seeds(_: Path) -> list[bytes]:
    return [b"a.png\t0\t0\t10\t20\nb.png\t3\t4\t39\t29\n", b"a.png 1.5 0 9 9\n"]


@_target("tiny-imagenet-train", _tiny_train_seeds)
def _tiny_train(folder: Path, data: bytes) -> None:
    for name in "ab":
        _picture(folder / "train" / "n01" / "images" / f"{name}.png")
    _put(folder / "train" / "n01" / "n01_boxes.txt", data)
    images = open_class_folders(folder / "train")
    as_boxed_images(images, read_training_boxes(images, None))


def _coco_seeds(_: Path) -> list[bytes]:
    images: list[object] = [coco_image(1, "a.png"), coco_image("x", "b.png"), coco_image(3, "sub/c.png", (None, 30))]
    runs = {"size": [30, 40], "counts": [100, 50, 1050]}
    packed = {"size": [30, 40], "counts": "T3b1jP1"}
    shapes = ([[0, 0, 20, 0, 20, 20.5]], runs, packed, [[1, 1, 5, 1, 5, 5], [9, 9, 12, 9, 12, 14]])
    keys = (1, 1, "x", 3)
    objects = [coco_object(k, key, 3 + 4 * (k % 2), [1.5, 2, 10, 7.25], shape) for k, (key, shape) in enumerate(zip(keys, shapes, strict=True))]
    content = coco_json(images, objects)
    return [json.dumps(content).encode(), json.dumps(coco_json(images[:1], objects[:1])).encode()]


@_target("coco", _coco_seeds, tokens=_JSON)
def _coco(folder: Path, data: bytes) -> None:
    for name in ("a", "b", "sub/c"):
        _picture(folder / "val2014" / f"{name}.png")
    _put(folder / "annotations" / "instances_val2014.json", data)
    _regions(folder, regions="masks" if zlib.crc32(data) % 2 else "boxes")


@_target("coco-negatives", _coco_seeds, tokens=_JSON)
def _coco_negatives(folder: Path, data: bytes) -> None:
    found, _ = negatives_from_coco(_put(folder / "instances.json", data))
    write_negatives(found, folder / "negatives.npz")
    assert read_negatives(folder / "negatives.npz").names == found.names


def _array(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0))
    return buffer.getvalue()


def _zipped(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def _negatives_seeds(folder: Path) -> list[bytes]:
    texts = (np.frombuffer(names, np.uint8) for names in (b"cat\0dog", b"a.jpg\0b/c.jpg\0d.jpg"))
    arrays = (np.array(1), np.array([[0b01000000], [0b10100000]], np.uint8), *texts)
    names = ("version", "absent", "categories", "images")
    parts = list(map(_array, arrays))
    whole = _zipped(folder / "n.npz", {f"{name}.npy": part for name, part in zip(names, parts, strict=True)})
    return [_BETWEEN.join(parts), whole.read_bytes()]


@_target("negatives", _negatives_seeds, tokens=[_BETWEEN, b"<f8", b"|O", b"|u1", b"(3,)", b"True"])
def _negatives(folder: Path, data: bytes) -> None:
    path, names = folder / "n.npz", ("version", "absent", "categories", "images")
    parts = data.split(_BETWEEN)
    if data.startswith(b"PK") or len(parts) < 4:
        _put(path, data)
    else:  # the archive's own checksums are right
        _zipped(path, {f"{name}.npy": part for name, part in zip(names, parts, strict=False)})
    read_negatives(path)
