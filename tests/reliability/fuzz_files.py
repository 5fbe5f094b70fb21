"""Readers of other files that come from elsewhere: lists, scores, heatmaps, checkpoints, shards, options, images."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cgc.data.class_map import read_class_map
from cgc.data.class_names import read_classes
from cgc.data.folders import ImageList, PathTable
from cgc.data.label_subset import read_list
from cgc.data.saliency_files import MANIFEST, Manifest
from cgc.errors import InputError
from cgc.explainers.stored import MapProblem, StoredMaps
from cgc.models.backbones import TinyResNet
from cgc.models.checkpoint_layouts import load_weights, read_checkpoint, released_state_dict
from cgc.report.comparison import as_json, compare, text
from cgc.report.html.content import Model, read_curves, read_predictions, read_summary
from cgc.report.html.page import write_page
from cgc.report.score_files import read_scores
from tests.data.saliency_fixture import QUERY, WHOLE
from tests.reliability.fuzz_annotations import JSON
from tests.reliability.fuzz_changes import png_checksums, put, target, zipped

_LABELS = ImageList(
    PathTable(["a/a_1.png", "a/a_2.png", "b/b_1.png"]), np.array([0, 0, 1]), ("a", "b"), Path("train")
)
_CLASSES = tuple(f"n{k:02d}" for k in range(20))


@target("label-list", lambda _: [b"a_1.png\nb_1.png\n", b"train/a/a_2.png\r\nb/b_1.png\na_1.png"])
def _label_list(folder: Path, data: bytes) -> None:
    chosen, _ = read_list(put(folder / "list.txt", data), _LABELS, skip_missing=bool(zlib.crc32(data) % 2))
    assert set(chosen.tolist()) <= {0, 1, 2}


@target("class-list", lambda _: [b"ant\nbee\nwild dog\n", "\ufeffn01\n\nn02".encode()])
def _class_list(folder: Path, data: bytes) -> None:
    names = read_classes(put(folder / "classes.txt", data))
    assert len(set(names)) == len(names) > 0


def _map_seeds(_: Path) -> list[bytes]:
    lines = b"# comment\nbear\tn01 n02\ncat, n03\nperson\t4; 5 # more\n"
    return [lines, json.dumps({"bear": ["n01", 2], "cat": "n03", "dog": 5}).encode()]


@target("class-map", _map_seeds, tokens=[b"\t", b",", b'"', b"{", b"[", b"\r", b"\x1c", b'"' * 3])
def _class_map(folder: Path, data: bytes) -> None:
    found = read_class_map(put(folder / "map.txt", data), _CLASSES)
    assert all(0 <= index < len(_CLASSES) for each in found.values() for index in each)


def _manifest_seeds(_: Path) -> list[bytes]:
    masks = {"a/1.png": 0, "a/2.png": 1, "b/1.png": None}
    return [json.dumps({"format": 1, "made_by": [asdict(QUERY), asdict(WHOLE)], "masks": masks}).encode()]


@target("saliency-manifest", _manifest_seeds, tokens=JSON)
def _manifest(folder: Path, data: bytes) -> None:
    put(folder / MANIFEST, data)
    found = Manifest.read(folder)
    assert found is not None
    hash(tuple(found.masks.values()))


def _score_seeds(_: Path) -> list[bytes]:
    head = "path,class,prediction,correct,confidence,ch,pg,zero_map,height,width\n"
    rows = (
        ("a/1.png", "ant", "ant", 1, 0.9, 0.5, 1, 0, 30, 40),
        ("b/2.png", "bee, x", "ant", 0, 0.25, "", 0, 0, 30, 40),
    )
    quoted = "".join(
        ",".join(f'"{c}"' if isinstance(c, str) and c else str(c) for c in row) + "\n" for row in rows
    )
    return [(head + quoted).encode(), "\ufeffclass,path,ch,deletion\r\nant,1.png,0.5,1e-3\r\n".encode()]


@target(
    "scores", _score_seeds, tokens=[b'"', b",", b"\r", b"nan", b"path", b"class", b"ch", b"correct", b'""']
)
def _scores(folder: Path, data: bytes) -> None:
    path = put(folder / "a.csv", data)
    scores, first = read_scores(path), read_scores(put(folder / "b.csv", _score_seeds(folder)[0]))
    for a, b in ((scores, scores), (first, scores)):
        with contextlib.suppress(InputError):  # nothing in common
            found = compare(a, b, draws=5)
            json.dumps(as_json(found), allow_nan=False)
            text(found)
    model = Model("a", scores, {"settings": {}}, read_predictions(path), read_curves(path))
    write_page(folder / "page.html", [model, model], [], title="x", draws=5)


def _summary_seeds(_: Path) -> list[bytes]:
    score = {"model": 0.5, "uniform": 0.4, "gaussian": 0.55, "random": None}
    content = {
        "settings": {"checkpoint": "run/model.pth.tar", "maps": None, "input_resize": 64, "explainer": "gradcam"},
        "layout": "voc", "images": 2, "rows": 2, "zero_maps": 0, "notes": ["one"], "skipped": {"unreadable": ["x.png"]},
        "top1": 0.5, "scores": {"ch": score, "consistency": {"model": 0.1}}, "counted": {"top1": 2, "ch": 1},
        "intervals": {"top1": [0.1, 0.9], "ch": [0.45, 0.65], "consistency": None},
    }  # fmt: skip
    return [json.dumps(content).encode()]


@target("summary", _summary_seeds, tokens=[*JSON, b'"<script>"'])
def _summary(folder: Path, data: bytes) -> None:
    summary = read_summary(put(folder / "a.json", data))
    scores = read_scores(put(folder / "a.csv", _score_seeds(folder)[0]))
    page = folder / "page.html"
    write_page(page, [Model("a", scores, summary, {}, {})], [], title="x", draws=0)
    assert page.read_text(encoding="utf-8").count("<script") == 2


def _heatmap_seeds(folder: Path) -> list[bytes]:
    values = np.random.default_rng(0).random((5, 8)).astype(np.float32)
    npy, grey = io.BytesIO(), Image.fromarray((values * 255).astype(np.uint8))
    np.save(npy, values)
    wide, tiff = io.BytesIO(), io.BytesIO()
    Image.fromarray((values * 65535).astype(np.uint16)).save(wide, "PNG")
    grey.save(tiff, "TIFF", compression="tiff_lzw")
    archive = zipped(folder / "m.npz", {"dog.npy": npy.getvalue()})
    return [npy.getvalue(), b"npz" + npy.getvalue(), archive.read_bytes(), wide.getvalue(), tiff.getvalue()]


@target(
    "heatmaps",
    _heatmap_seeds,
    allowed=(MapProblem,),
    repair=png_checksums,
    tokens=[b"'<f8'", b"'|O'", b"(8,)", b"True"],
)
def _heatmaps(folder: Path, data: bytes) -> None:
    maps, image = folder / "maps", folder / "images" / "1.jpg"
    for suffix in (".npy", ".npz", ".png", ".tif"):
        (maps / f"1{suffix}").unlink(missing_ok=True)
    maps.mkdir(exist_ok=True)
    if data[:3] == b"npz":
        zipped(maps / "1.npz", {"dog.npy": data[3:]})
    else:
        suffix = {b"PK": ".npz", b"\x89P": ".png", b"II": ".tif", b"MM": ".tif"}.get(data[:2], ".npy")
        put(maps / f"1{suffix}", data)
    found = StoredMaps(maps, folder / "images").load(image, "dog", (50, 80))
    assert (found.dtype, found.ndim) == (torch.float32, 2)
    assert found.isfinite().all()
    assert (found >= 0).all()


_NETWORK = TinyResNet(3)


def _checkpoint_seeds(folder: Path) -> list[bytes]:
    """Pickles alone, which are put into an archive with right checksums, and whole files, the old format's too."""
    small = {"conv1.weight": torch.ones(2, 3, 1, 1), "fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}
    full = {
        "epoch": 3,
        "arch": "resnet_tiny",
        "best_acc1": np.float64(5.0),
        "state_dict": released_state_dict(_NETWORK),
    }
    seeds = []
    for content in (full, {"model": _NETWORK.state_dict(), "optimizer": [1, (2.5, None)]}):
        torch.save(content, folder / "a.pth")
        with zipfile.ZipFile(folder / "a.pth") as archive:
            seeds.append(next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")))
    for zipped_format in (True, False):
        torch.save({"state_dict": small}, folder / "b.pth", _use_new_zipfile_serialization=zipped_format)
        seeds.append((folder / "b.pth").read_bytes())
    return seeds


_GLOBALS = (
    *(
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch", "FloatStorage"),
        ("torch", "QInt8Storage"),
    ),
    *(
        ("torch._utils", f"_rebuild_{kind}")
        for kind in ("tensor_v2", "qtensor", "sparse_tensor", "parameter")
    ),
    *(
        ("torch._utils", "_rebuild_meta_tensor_no_storage"),
        ("collections", "OrderedDict"),
        ("argparse", "Namespace"),
    ),
)
_PICKLE = [
    *(f"c{module}\n{name}\n".encode() for module, name in _GLOBALS),
    *(b"R", b"Q", b"b", b"(", b"t", b"}", b"]", b"u", b"s", b"h\0", b"\x85", b"\x86", b"\x87", b"q\0", b"."),
    *(b"\x8a\x01\x7f", b"J\xff\xff\xff\x7f", b"X\x03\0\0\0cpu"),
]


@target("checkpoints", _checkpoint_seeds, tokens=_PICKLE)
def _checkpoints(folder: Path, data: bytes) -> None:
    path = folder / "a.pth"
    if data[:2] == b"\x80\x02" and data[2:3] != b"\x8a":  # which the old format begins with
        entries = {
            f"a/data/{k}": bytes(w.numel() * w.element_size())
            for k, w in enumerate(_NETWORK.state_dict().values())
        }
        zipped(
            path,
            {"a/data.pkl": data, **entries, "a/version": b"3\n", "a/byteorder": b"little"},
            zipfile.ZIP_STORED,
        )
    else:
        put(path, data)
    checkpoint = read_checkpoint(path)
    try:
        load_weights(TinyResNet(3), checkpoint, new_head=bool(zlib.crc32(data) % 2))
    except InputError as error:  # the weights of another network
        if "\n" in str(error):
            raise
