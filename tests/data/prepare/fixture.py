"""Small archives in the form of the published ones."""

from __future__ import annotations

import functools
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cgc.data.class_names import imagenet_wnids
from tests.data.boxed_fixture import voc, voc_object
from tests.data.images import photograph

WNIDS = imagenet_wnids()[:3]


@functools.cache
def jpeg(seed: int = 0, width: int = 24, height: int = 20) -> bytes:
    file = io.BytesIO()
    photograph(width, height, seed).save(file, "JPEG")
    return file.getvalue()


def tar_bytes(content: Mapping[str, bytes], compression: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{compression}") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def write_tar(path: Path, content: Mapping[str, bytes]) -> Path:
    """Compressed where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(content, "gz" if path.suffix in (".gz", ".tgz") else ""))
    return path


def write_zip(path: Path, content: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def json_bytes(content: object) -> bytes:
    return json.dumps(content).encode()


def mat(**variables: Any) -> bytes:
    scipy_io = pytest.importorskip("scipy.io")
    file = io.BytesIO()
    scipy_io.savemat(file, variables)
    return file.getvalue()


def structs(rows: list[dict[str, Any]]) -> Any:
    """MATLAB's struct array."""
    array = np.zeros((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for k, row in enumerate(rows):
        array[0, k] = tuple(row.values())
    return array


def cells(values: list[str]) -> Any:
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = values
    return array


def imagenet(folder: Path) -> Path:
    """Three classes, two training images of each; four held-out images of the classes 2, 0, 1, 0."""
    inner = {
        f"{wnid}.tar": tar_bytes({f"{wnid}_{k}.JPEG": jpeg(10 * c + k) for k in range(2)})
        for c, wnid in enumerate(WNIDS)
    }
    write_tar(folder / "ILSVRC2012_img_train.tar", inner)
    held_out = {f"./ILSVRC2012_val_{k:08d}.JPEG": jpeg(90 + k) for k in (1, 2, 3, 4)}
    write_tar(folder / "ILSVRC2012_img_val.tar", held_out)
    boxes = {
        f"val/ILSVRC2012_val_{k:08d}.xml": voc(voc_object(WNIDS[c], (1, 1, 12, 10))).encode()
        for k, c in zip((1, 2, 3, 4), (2, 0, 1, 0), strict=True)
    }
    write_tar(folder / "ILSVRC2012_bbox_val_v3.tgz", boxes)
    return folder


def devkit(folder: Path) -> Path:
    """Its class numbers are not the places among the sorted ids, and one synset is no class."""
    ids = {1: WNIDS[2], 2: WNIDS[0], 3: WNIDS[1], 4: "n00001740"}
    synsets = structs(
        [
            {
                "ILSVRC2012_ID": number,
                "WNID": wnid,
                "words": "a, b",
                "num_children": 3.0 if number == 4 else 0.0,
            }
            for number, wnid in ids.items()
        ]
    )
    top = "ILSVRC2012_devkit_t12/data"
    truth = b"1\n2\n3\n2\n"
    content = {
        f"{top}/meta.mat": mat(synsets=synsets),
        f"{top}/ILSVRC2012_validation_ground_truth.txt": truth,
    }
    return write_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", content)


def cub(folder: Path, classes: int = 3) -> Path:
    """Of each class one training and one held-out image; tables come after the images, attributes beside them."""
    names = [f"{c:03d}.Bird_{c}" for c in range(1, classes + 1)]
    files = [f"{name}/{name}_{k}.jpg" for name in names for k in (1, 2)]
    tables = {
        "images.txt": [f"{n} {file}" for n, file in enumerate(files, 1)],
        "image_class_labels.txt": [f"{n} {(n + 1) // 2}" for n in range(1, len(files) + 1)],
        "train_test_split.txt": [f"{n} {n % 2}" for n in range(1, len(files) + 1)],
        "bounding_boxes.txt": [f"{n} 2.0 3.0 10.0 8.0" for n in range(1, len(files) + 1)],
        "classes.txt": [f"{n} {name}" for n, name in enumerate(names, 1)],
    }
    content = {f"CUB_200_2011/images/{file}": jpeg(n % 7) for n, file in enumerate(files)}
    content |= {f"CUB_200_2011/{name}": "\n".join(lines).encode() for name, lines in tables.items()}
    content |= {
        "attributes.txt": b"x",
        "CUB_200_2011/parts/parts.txt": b"1 back",
        "CUB_200_2011/._x.txt": b"?",
    }
    return write_tar(folder / "CUB_200_2011.tgz", content)


def aircraft(folder: Path) -> Path:
    variants = ("707-320", "F-16A/B", "F/A-18")
    data = "fgvc-aircraft-2013b/data"
    keys = {split: [f"{s}{c}" for c in range(3)] for s, split in enumerate(("train", "val", "test"), 1)}
    keys["trainval"] = keys["train"] + keys["val"]
    every = [key for split in ("train", "val", "test") for key in keys[split]]
    content = {f"{data}/images/{key}.jpg": jpeg(int(key)) for key in every}
    content[f"{data}/images_box.txt"] = "\n".join(f"{key} 1 2 12 10" for key in every).encode()
    content[f"{data}/variants.txt"] = "\n".join(variants).encode()
    for split, listed in keys.items():
        lines = "\n".join(f"{key} {variants[int(key) % 10]}" for key in listed)
        content[f"{data}/images_variant_{split}.txt"] = lines.encode()
    content["fgvc-aircraft-2013b/evaluation.m"] = b"% x"
    return write_tar(folder / "fgvc-aircraft-2013b.tar.gz", content)


def pets(folder: Path) -> Path:
    """Two breeds whose numbers are in another order than their sorted names."""
    breeds = ("american_bulldog", "Bengal")
    keys = [f"{breed}_{k}" for breed in breeds for k in (1, 2)]
    lines = {key: f"{key} {breeds.index(key.rpartition('_')[0]) + 1} 1 1" for key in keys}
    trimap = io.BytesIO()
    Image.fromarray(np.full((20, 24), 1, dtype=np.uint8)).save(trimap, "PNG")
    images = {f"images/{key}.jpg": jpeg(n) for n, key in enumerate(keys)} | {"images/Bengal_1.mat": b"x"}
    write_tar(folder / "images.tar.gz", images)
    content = {f"annotations/trimaps/{key}.png": trimap.getvalue() for key in keys}
    content |= {f"annotations/trimaps/._{key}.png": b"?" for key in keys}
    content["annotations/trainval.txt"] = "\n".join(lines[key] for key in keys if key.endswith("1")).encode()
    content["annotations/test.txt"] = "\n".join(lines[key] for key in keys if key.endswith("2")).encode()
    write_tar(folder / "annotations.tar.gz", content)
    return folder


def flowers(folder: Path) -> Path:
    """Six images of two flowers: two in each split."""
    write_tar(folder / "102flowers.tgz", {f"jpg/image_{k:05d}.jpg": jpeg(k) for k in range(1, 7)})
    (folder / "imagelabels.mat").write_bytes(mat(labels=np.array([[1, 2, 1, 2, 1, 2]])))
    splits = {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]}
    (folder / "setid.mat").write_bytes(mat(**{name: np.array(ids) for name, ids in splits.items()}))
    return folder


def dogs(folder: Path) -> Path:
    breeds = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")
    keys = [f"{breed}/{breed.partition('-')[0]}_{k}" for breed in breeds for k in (1, 2)]
    write_tar(folder / "images.tar", {f"Images/{key}.jpg": jpeg(n) for n, key in enumerate(keys)})
    name = "Chihuahua"
    xml = {f"Annotation/{key}": voc(voc_object(name, (2, 3, 12, 10))).encode() for key in keys}
    write_tar(folder / "annotation.tar", xml)
    lists = {
        f"{split}_list.mat": mat(file_list=cells([f"{key}.jpg" for key in keys if key.endswith(end)]))
        for split, end in (("train", "1"), ("test", "2"))
    }
    write_tar(folder / "lists.tar", lists)
    return folder


def cars(folder: Path) -> Path:
    """Two cars in each split, with the same file names in both."""
    for split, seed in (("train", 0), ("test", 5)):
        images = {f"cars_{split}/{k:05d}.jpg": jpeg(seed + k) for k in (1, 2)}
        write_tar(folder / f"cars_{split}.tgz", images)
    rows = [
        {"bbox_x1": 2, "bbox_y1": 3, "bbox_x2": 12, "bbox_y2": 10, "class": k, "fname": f"{k:05d}.jpg"}
        for k in (1, 2)
    ]
    names = np.empty((1, 2), dtype=object)
    names[0] = ["AM General Hummer SUV 2000", "Ram C/V Cargo Van 2012"]
    kit = {"devkit/cars_meta.mat": mat(class_names=names)}
    kit["devkit/cars_train_annos.mat"] = mat(annotations=structs(rows))
    write_tar(folder / "car_devkit.tgz", kit)
    (folder / "cars_test_annos_withlabels.mat").write_bytes(mat(annotations=structs(rows)))
    return folder


def tiny(folder: Path) -> Path:
    top = "tiny-imagenet-200"
    content = {f"{top}/wnids.txt": "\n".join(reversed(WNIDS)).encode(), f"{top}/words.txt": b"x\ty"}
    for c, wnid in enumerate(WNIDS):
        content[f"{top}/train/{wnid}/{wnid}_boxes.txt"] = f"{wnid}_0.JPEG\t0\t0\t9\t9".encode()
        content[f"{top}/train/{wnid}/images/{wnid}_0.JPEG"] = jpeg(c)
    rows = [f"val_{k}.JPEG\t{wnid}\t1\t2\t11\t12" for k, wnid in enumerate(WNIDS)]
    content[f"{top}/val/val_annotations.txt"] = "\n".join(rows).encode()
    content |= {f"{top}/val/images/val_{k}.JPEG": jpeg(20 + k) for k in range(3)}
    content[f"{top}/test/images/test_0.JPEG"] = jpeg(30)
    return write_zip(folder / "tiny-imagenet-200.zip", content)


def imagenette(folder: Path, name: str = "imagenette2") -> Path:
    content = {
        f"{name}/{split}/{wnid}/{wnid}_{k}.JPEG": jpeg(k)
        for split in ("train", "val")
        for wnid in WNIDS
        for k in (0, 1)
    }
    content |= {f"{name}/noisy_imagenette.csv": b"x", f"{name}/.DS_Store": b"x"}
    return write_tar(folder / f"{name}.tgz", content)
