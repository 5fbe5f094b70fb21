"""Readers of annotations that come from elsewhere: valid files, and what an evaluation or a run asks of them."""

from __future__ import annotations

import contextlib
import io
import json
import zlib
from pathlib import Path

import numpy as np

from cgc.data.boxes import open_boxes
from cgc.data.folders import open_class_folders
from cgc.data.negatives import negatives_from_coco, read_negatives, write_negatives
from cgc.data.training_boxes import as_boxed_images, read_training_boxes
from tests.data.boxed_fixture import coco_image, coco_json, coco_object, voc, voc_object
from tests.reliability.fuzz_changes import BETWEEN, picture, put, put_all, target, zipped

_XML = b"<annotation> <object> </object> <name> <bndbox> <xmin> <!DOCTYPE <!ENTITY &a; &#0; <![CDATA[ ]]> <?xml".split()
JSON = b'{ } [ ] : , "" null true NaN Infinity -0 1e400 "\\ud800" "\\u0000" [[ {"a":'.split()


def _regions(folder: Path, **options: str) -> None:
    """Everything that an evaluation asks of the rows; regions may say that they cannot be had."""
    for image in open_boxes(folder, **options).images:
        with contextlib.suppress(ValueError, OSError):
            assert image.region is not None
        assert image.path.resolve().is_relative_to(folder.resolve())


def _voc_seeds(_: Path) -> list[bytes]:
    plain = voc(voc_object("cat", (1, 1, 50, 100)), voc_object("wild dog", (75.5, "1.0", 100.9, 99.2), 1))
    head = '<?xml version="1.0" encoding="utf-8"?>\n<filename>a.jpg</filename><size><width>7</width></size>'
    return [
        plain.encode(),
        voc(voc_object("cat", (1, 2, 3, 4)), head=head[39:]).encode(),
        head[:39].encode() + plain.encode(),
    ]


@target("voc-xml", _voc_seeds, tokens=_XML)
def _voc(folder: Path, data: bytes) -> None:
    picture(folder / "val" / "a.png")
    put(folder / "annotation" / "a.xml", data)
    put(folder / "names.txt", b"cat\nwild dog\n")
    _regions(folder, classes=str(folder / "names.txt"))


@target("voc-training-boxes", _voc_seeds, tokens=_XML)
def _voc_training(folder: Path, data: bytes) -> None:
    picture(folder / "train" / "cat" / "a.png")
    put(folder / "xml" / "a.xml", data)
    images = open_class_folders(folder / "train")
    as_boxed_images(images, read_training_boxes(images, folder / "xml"))


def _voc_list_seeds(_: Path) -> list[bytes]:
    return [b"a\n", b"a 1\nb -1\n", b"b\r\na\r\n"]


@target("voc-list", _voc_list_seeds)
def _voc_list(folder: Path, data: bytes) -> None:
    year = folder / "VOC2007"
    picture(year / "JPEGImages" / "a.png")
    put(year / "Annotations" / "a.xml", voc(voc_object("cat", (1, 1, 5, 5))).encode())
    put(year / "ImageSets" / "Main" / "test.txt", data)
    _regions(folder)


def _cub_seeds(_: Path) -> list[bytes]:
    tables = (
        b"1 001.Cat/a.png\n2 002.Dog/b.png\n",
        b"1 0\n2 0\n",
        b"1 1\n2 2\n",
        b"1 0.0 1.5 20.0 10.25\n2 3.0 4.0 5.0 6.0\n",
    )
    return [BETWEEN.join(tables), BETWEEN.join(table.replace(b" ", b"\t") for table in tables)]


@target("cub", _cub_seeds, tokens=[BETWEEN])
def _cub(folder: Path, data: bytes) -> None:
    for name in ("001.Cat/a.png", "002.Dog/b.png"):
        picture(folder / "images" / name)
    names = ("images", "train_test_split", "image_class_labels", "bounding_boxes")
    put_all(data, [folder / f"{name}.txt" for name in names])
    _regions(folder)


def _pets_seeds(_: Path) -> list[bytes]:
    lists = b"#Image CLASS-ID SPECIES BREED\nAbyssinian_1 1 1 1\nbeagle_2 2 2 1\n", b"beagle_9 2 2 1\n"
    return [BETWEEN.join(lists), BETWEEN.join(each.replace(b" ", b"\t") for each in lists)]


@target("pets", _pets_seeds, tokens=[BETWEEN])
def _pets(folder: Path, data: bytes) -> None:
    for name in ("Abyssinian_1", "beagle_2"):
        picture(folder / "images" / f"{name}.jpg")
        picture(folder / "annotations" / "trimaps" / f"{name}.png")
    put_all(data, [folder / "annotations" / f"{name}.txt" for name in ("test", "trainval")])
    _regions(folder)


def _aircraft_seeds(_: Path) -> list[bytes]:
    return [BETWEEN.join((b"1 1 1 30 20\n2 3 4 5 6\n", b"1 A320\n2 707-320\n", b"707-320\nA320\n"))]


@target("aircraft", _aircraft_seeds, tokens=[BETWEEN])
def _aircraft(folder: Path, data: bytes) -> None:
    for name in "12":
        picture(folder / "images" / f"{name}.jpg")
    put_all(data, [folder / f"{name}.txt" for name in ("images_box", "images_variant_test", "variants")])
    _regions(folder)


def _tiny_seeds(_: Path) -> list[bytes]:
    rows = (("a.png", "n01", 0, 0, 10, 20), ("b.png", "n02", 3, 4, 39, 29), ("a.png", "n01", 5, 5, 6, 6))
    return [
        b"".join("\t".join(map(str, row)).encode() + b"\n" for row in rows),
        b"a.png n01 0 0 9 9\nb.png n02 1 1 9 9\n",
    ]


@target("tiny-imagenet-val", _tiny_seeds)
def _tiny_val(folder: Path, data: bytes) -> None:
    for name in "ab":
        picture(folder / "val" / "images" / f"{name}.png")
    put(folder / "val" / "val_annotations.txt", data)
    put(folder / "wnids.txt", b"n02\nn01\n")
    images = open_class_folders(folder / "val")
    assert len(images.paths) == len(images.labels)
    for index in range(len(images)):
        assert images.path(index).resolve().is_relative_to(folder.resolve())
    _regions(folder)


def _tiny_train_seeds(_: Path) -> list[bytes]:
    return [b"a.png\t0\t0\t10\t20\nb.png\t3\t4\t39\t29\n", b"a.png 1.5 0 9 9\n"]


@target("tiny-imagenet-train", _tiny_train_seeds)
def _tiny_train(folder: Path, data: bytes) -> None:
    for name in "ab":
        picture(folder / "train" / "n01" / "images" / f"{name}.png")
    put(folder / "train" / "n01" / "n01_boxes.txt", data)
    images = open_class_folders(folder / "train")
    as_boxed_images(images, read_training_boxes(images, None))


def _coco_seeds(_: Path) -> list[bytes]:
    images: list[object] = [
        coco_image(1, "a.png"),
        coco_image("x", "b.png"),
        coco_image(3, "sub/c.png", (None, 30)),
    ]
    runs = {"size": [30, 40], "counts": [100, 50, 1050]}
    packed = {"size": [30, 40], "counts": "T3b1jP1"}
    shapes = ([[0, 0, 20, 0, 20, 20.5]], runs, packed, [[1, 1, 5, 1, 5, 5], [9, 9, 12, 9, 12, 14]])
    keys = (1, 1, "x", 3)
    objects = [
        coco_object(k, key, 3 + 4 * (k % 2), [1.5, 2, 10, 7.25], shape)
        for k, (key, shape) in enumerate(zip(keys, shapes, strict=True))
    ]
    content = coco_json(images, objects)
    return [json.dumps(content).encode(), json.dumps(coco_json(images[:1], objects[:1])).encode()]


@target("coco", _coco_seeds, tokens=JSON)
def _coco(folder: Path, data: bytes) -> None:
    for name in ("a", "b", "sub/c"):
        picture(folder / "val2014" / f"{name}.png")
    put(folder / "annotations" / "instances_val2014.json", data)
    _regions(folder, regions="masks" if zlib.crc32(data) % 2 else "boxes")


@target("coco-negatives", _coco_seeds, tokens=JSON)
def _coco_negatives(folder: Path, data: bytes) -> None:
    found, _ = negatives_from_coco(put(folder / "instances.json", data))
    write_negatives(found, folder / "negatives.npz")
    assert read_negatives(folder / "negatives.npz").names == found.names


def _array(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0))
    return buffer.getvalue()


def _negatives_seeds(folder: Path) -> list[bytes]:
    texts = (np.frombuffer(names, np.uint8) for names in (b"cat\0dog", b"a.jpg\0b/c.jpg\0d.jpg"))
    arrays = (np.array(1), np.array([[0b01000000], [0b10100000]], np.uint8), *texts)
    names = ("version", "absent", "categories", "images")
    parts = list(map(_array, arrays))
    whole = zipped(folder / "n.npz", {f"{name}.npy": part for name, part in zip(names, parts, strict=True)})
    return [BETWEEN.join(parts), whole.read_bytes()]


@target("negatives", _negatives_seeds, tokens=[BETWEEN, b"<f8", b"|O", b"|u1", b"(3,)", b"True"])
def _negatives(folder: Path, data: bytes) -> None:
    path, names = folder / "n.npz", ("version", "absent", "categories", "images")
    parts = data.split(BETWEEN)
    if data.startswith(b"PK") or len(parts) < 4:
        put(path, data)
    else:  # the archive's own checksums are right
        zipped(path, {f"{name}.npy": part for name, part in zip(names, parts, strict=False)})
    read_negatives(path)
