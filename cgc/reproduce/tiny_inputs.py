"""Inputs of the tiny scale, made offline: drawn images in the layouts of the tables, weights drawn at random.

Everything is made once and depends on nothing but the constants here.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgc.data.class_names import read_classes
from cgc.data.shapes import CLASSES, HELD_OUT_CORRELATION, TRAIN_CORRELATION, draw_image, write_shapes
from cgc.errors import InputError, RunError
from cgc.models.backbones import build_backbone
from cgc.models.u2net import U2Net
from cgc.reproduce.model import Input, Layout
from cgc.reproduce.scale import TINY_SIDE

ARCH = "resnet_tiny"
_COCO_CATEGORIES = 80
_OTHER_CLASSES = 1000
_SEED = 0
_UNREL = 10  # images of each class


@dataclass(frozen=True)
class Drawn:
    """Where inputs of the tiny scale lie, and how many images of each class are drawn for training and held out."""

    folder: Path
    layout: Layout
    per_class: int
    held_out: int

    def places(self, needs: Sequence[Input], given: Mapping[str, str]) -> dict[str, str]:
        """What is needed; what ``given`` does not name has its place in the folder. DATA stands for other data sets."""
        own = "shapes" if self.layout == "boxes" else f"coco-{self.per_class}-{self.held_out}"
        data = given.get("DATA", str(self.folder / own))
        files = {need.name: str(self.folder / _FILES[need.name]) for need in needs if need.name in _FILES}
        others = {need.name: data for need in needs if need.name not in _FILES}
        return {**files, **others, "DATA": data, **given}

    def make(self, needs: Sequence[Input], given: Mapping[str, str]) -> dict[str, str]:
        """Make what is not there yet; returns the places.

        Raises InputError for a folder that holds something else, RunError if something cannot be written.
        """
        places = self.places(needs, given)
        data = Path(places["DATA"])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if "DATA" not in given:
                draw = _coco if self.layout == "coco" else _boxed
                draw(data, self.per_class, self.held_out)
            for need in needs:
                if need.name in _MAKERS and need.name not in given:
                    _MAKERS[need.name](Path(places[need.name]), data)
        except OSError as error:
            raise RunError(f"{error.filename or self.folder}: {error.strerror}") from error
        return places


def _boxed(data: Path, per_class: int, held_out: int) -> None:
    """Classes of drawn shapes whose held-out images have VOC boxes in ``annotation``."""
    write_shapes(data, train_per_class=per_class, val_per_class=held_out, size=TINY_SIDE)
    _once(data / "annotation", lambda partial: shutil.copytree(data / "eval" / "annotation", partial))


def _coco(data: Path, per_class: int, held_out: int) -> None:
    """Images of two shapes side by side, in COCO 2014's layout, with as many categories as COCO has."""

    def write(partial: Path) -> None:
        _split(partial, "train2014", per_class * len(CLASSES) // 2, TRAIN_CORRELATION)
        _split(partial, "val2014", held_out * len(CLASSES) // 2, HELD_OUT_CORRELATION)

    _once(data, write)


def _split(data: Path, split: str, count: int, correlation: float) -> None:
    """``split/*.jpg`` and ``annotations/instances_{split}.json``, with so many images."""
    names = [*CLASSES, *(f"unused {number}" for number in range(_COCO_CATEGORIES - len(CLASSES)))]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (data / split).mkdir(parents=True)
    for index in range(1, count + 1):
        picture, objects = _pair(index, split, correlation)
        name = f"COCO_{split}_{index:012d}.jpg"
        picture.save(data / split / name, quality=95)
        images.append({"id": index, "file_name": name, "height": picture.height, "width": picture.width})
        for each in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": index, **each})
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (data / "annotations").mkdir(exist_ok=True)
    (data / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def _pair(index: int, split: str, correlation: float) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A picture of two shapes, perhaps of one class, and their annotations: box, and its outline for a mask."""
    rng = np.random.default_rng((_SEED, split == "val2014", index))
    halves, objects = [], []
    for place in range(2):
        label = int(rng.integers(len(CLASSES)))
        drawn = draw_image(CLASSES[label], TINY_SIDE, rng, correlation=correlation)
        x0, y0, x1, y1 = drawn.box
        x0, x1 = x0 + place * TINY_SIDE, x1 + 1 + place * TINY_SIDE
        outline = [x0, y0, x1, y0, x1, y1 + 1, x0, y1 + 1]
        extent = [x0, y0, x1 - x0, y1 + 1 - y0]
        area = extent[2] * extent[3]
        objects.append(
            {"category_id": label + 1, "bbox": extent, "segmentation": [outline], "area": area, "iscrowd": 0}
        )
        halves.append(drawn.pixels)
    return Image.fromarray(np.concatenate(halves, axis=1)), objects


def _unrel(unrel: Path, data: Path) -> None:
    """Drawn images under UnRel's layout with COCO-style annotations, whatever classes DATA has."""

    def write(partial: Path) -> None:
        coco = partial / "coco"
        _coco(coco, 1, _UNREL)
        content = json.loads((coco / "annotations" / "instances_val2014.json").read_text())
        content["categories"] = content["categories"][: len(CLASSES)]
        (coco / "val2014").rename(partial / "images")
        (partial / "annotations").mkdir()
        (partial / "annotations" / "annotations.json").write_text(json.dumps(content))
        shutil.rmtree(coco)

    _once(unrel, write)


def _class_map(path: Path, data: Path) -> None:
    """Each drawn category to one of DATA's classes, by index."""
    count = len(read_classes(data / "train"))
    lines = [f"{name}\t{k % count}\n" for k, name in enumerate(CLASSES)]
    _write(path, lambda partial: partial.write_text("".join(lines), encoding="utf-8"))


def _swav(path: Path, data: Path) -> None:
    """A trunk in the layout of SwAV's files: a projector and prototypes, no classifier."""

    def weights() -> dict[str, Tensor]:
        trunk = {k: w for k, w in build_backbone(ARCH, 1).state_dict().items() if not k.startswith("fc.")}
        projector = {f"projection_head.{i}.weight": torch.zeros(8, 96) for i in (0, 3)}
        own = {**trunk, **projector, "prototypes.weight": torch.zeros(5, 8)}
        return {f"module.{key}": weight for key, weight in own.items()}

    _weights(path, weights)


def _imagenet(path: Path, data: Path) -> None:
    """A classifier of other classes, whose head cannot be taken over."""
    _weights(path, lambda: dict(build_backbone(ARCH, _OTHER_CLASSES).state_dict()))


def _u2net(path: Path, data: Path) -> None:
    _weights(path, lambda: dict(U2Net("u2netp").state_dict()))


def _weights(path: Path, weights: Callable[[], dict[str, Tensor]]) -> None:
    if not path.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            found = weights()
        _write(path, lambda partial: torch.save(found, partial))


_FILES = {
    "SWAV": "swav.pth.tar",
    "IMAGENET": "imagenet.pth.tar",
    "U2NET": "u2netp.pth",
    "UNREL": "unrel",
    "CLASS_MAP": "class_map.txt",
}
_MAKERS: Mapping[str, Callable[[Path, Path], None]] = {
    "SWAV": _swav,
    "IMAGENET": _imagenet,
    "U2NET": _u2net,
    "UNREL": _unrel,
    "CLASS_MAP": _class_map,
}


def _once(folder: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a folder beside its place, which takes its name when it is complete."""
    if folder.is_dir():
        return
    if folder.exists():
        raise InputError(f"{folder}: not a folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    os.rename(partial, folder)


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    partial.replace(path)
