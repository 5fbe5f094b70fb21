"""Readers of images, shards, MATLAB files and options that come from elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from cgc.commands import evaluate_options, train_options
from cgc.commands.evaluate_presets import PRESETS as EVALUATIONS
from cgc.commands.train_presets import PRESETS as TRAININGS
from cgc.data.annotations import Choice
from cgc.data.decode import UnreadableImage, decode_data, decode_pixels
from cgc.data.folders import PathTable
from cgc.data.image_headers import header_size
from cgc.data.saliency_files import read_grey
from cgc.data.shards.index import INDEX, RECORD, RECORDS, Shard, ShardIndex, read_index, write_index
from cgc.data.shards.scan import joined, scan_shard
from cgc.data.unrel import read_unrel
from cgc.errors import InputError
from tests.data.images import photograph
from tests.reliability.fuzz_annotations import JSON
from tests.reliability.fuzz_changes import BETWEEN, picture, png_checksums, put, put_all, target

_KINDS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "TIFF",
    "BMP",
    "PPM",
    "TGA",
    "ICO",
    "PCX",
    "JPEG2000",
    "DDS",
    "SGI",
)


# Says that it is a picture of 9 px; what it draws, a program would have to find out.
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def _image_seeds(_: Path) -> list[bytes]:
    seeds, image = [], photograph(24, 16)
    for kind in _KINDS:
        with contextlib.suppress(OSError, KeyError):  # Pillow may be built without it
            buffer = io.BytesIO()
            image.save(buffer, kind)
            seeds.append(buffer.getvalue())
    for mode, kind, options in (
        ("P", "PNG", {"transparency": 0}),
        ("I;16", "PNG", {}),
        ("L", "TIFF", {"compression": "tiff_lzw"}),
        ("CMYK", "JPEG", {"progressive": True}),
        ("LA", "PNG", {}),
    ):
        buffer = io.BytesIO()
        converted = (
            Image.fromarray(np.full((9, 9), 300, np.uint16)) if mode == "I;16" else image.convert(mode)
        )
        converted.save(buffer, kind, **options)
        seeds.append(buffer.getvalue())
    return seeds


@target("images", _image_seeds, allowed=(UnreadableImage,), tokens=[EPS], repair=png_checksums)
def _images(folder: Path, data: bytes) -> None:
    path = put(folder / "a.jpg", data)
    header_size(path)
    with contextlib.suppress(UnreadableImage):
        read_grey(path, (16, 24))
    pixels, image = decode_pixels(data, path), decode_data(data, path)
    assert (image.mode, image.size) == ("RGB", pixels.size)


def _index_seeds(folder: Path) -> list[bytes]:
    records = np.array([(512, 100, 0, 1), (1536, 50, 1, 2)], RECORD)
    write_index(
        folder,
        ShardIndex((Shard("a.tar", 2, 4096),), ("ant", "bee"), records, PathTable(["a.jpg", "b.jpg"]), True),
    )
    head = json.loads((folder / INDEX).read_bytes())
    del head["sha256"]  # an index without one is taken as it is
    return [BETWEEN.join((json.dumps(head).encode(), (folder / RECORDS).read_bytes()))]


def _index_checksums(data: bytes) -> bytes:
    head, _, records = data.partition(BETWEEN)
    try:
        content = json.loads(head)
        content["records"].update(bytes=len(records), sha256=hashlib.sha256(records).hexdigest())
        return json.dumps(content).encode() + BETWEEN + records
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return data


@target("shard-index", _index_seeds, tokens=[*JSON, b"\0"], repair=_index_checksums)
def _shard_index(folder: Path, data: bytes) -> None:
    put_all(data, [folder / INDEX, folder / RECORDS])
    index = read_index(folder)
    assert len(index.names) == len(index.records) == len(index.shard_of)
    assert all(
        (folder / name).resolve().is_relative_to(folder.resolve())
        for name in map(index.names.__getitem__, range(len(index)))
    )


def _tar_seeds(_: Path) -> list[bytes]:
    seeds = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind, bufsize=512) as tar:
            for name, content in (
                ("a.jpg", b"x" * 600),
                ("a.cls", b"1"),
                (("d" * 60 + "/") * 2 + "é.png", b"y"),
                ("b.png", b""),
                ("b.cls", b"0"),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                if kind != tarfile.USTAR_FORMAT or name.isascii():
                    tar.addfile(member, io.BytesIO(content))
                    if name.startswith("d"):
                        label = tarfile.TarInfo(name.replace(".png", ".cls"))
                        label.size = 1
                        tar.addfile(label, io.BytesIO(b"2"))
        seeds.append(buffer.getvalue().rstrip(b"\0") + bytes(1536))
    return seeds


def _tar_checksums(data: bytes) -> bytes:
    """Of every block that could be a header."""
    changed = bytearray(data)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            changed[at + 148 : at + 156] = b" " * 8
            changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
    return bytes(changed)


@target(
    "shards",
    _tar_seeds,
    tokens=[b"ustar\0", b"30 path=../../x\n", b"\x80\0\0", b"777777777777"],
    repair=_tar_checksums,
)
def _shards(folder: Path, data: bytes) -> None:
    found = scan_shard(put(folder / "a.tar", data))
    assert all((folder / name).resolve().is_relative_to(folder.resolve()) for name in found.names)
    joined([found], "a")


def _config_seeds(_: Path) -> list[bytes]:
    return [
        json.dumps(
            {"data": "d", "arch": "resnet18", "epochs": 3, "lr": 0.1, "weight": None, "decay_epochs": [1, 2]}
        ).encode(),
        json.dumps(
            {"settings": {"data": "d", "checkpoint": "c.pth", "metrics": ["ch"], "batch_size": 4}}
        ).encode(),
        json.dumps(
            {"program": TRAININGS["cgc"].prog, "boxes_share": "1/10", "compile": False, "seed": 7}
        ).encode(),
    ]


@target(
    "config",
    _config_seeds,
    tokens=[*JSON, b'"seed"', b'"boxes_share"', b'"1/1e308"', b'"classes"', b'"help"'],
)
def _config(folder: Path, data: bytes) -> None:
    path = str(put(folder / "args.json", data))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            if zlib.crc32(data) % 2 or data == _config_seeds(folder)[0] or data == _config_seeds(folder)[2]:
                train_options.parse(["--config", path, "--epochs", "1", str(folder)], TRAININGS["cgc"])
            else:
                evaluate_options.parse(["--config", path], EVALUATIONS["evaluate"])
    except SystemExit as error:
        kind = InputError if error.code == 2 else RuntimeError
        raise kind(said.getvalue().removesuffix("\n")) from error


def _mat_seeds(folder: Path) -> list[bytes]:
    from scipy.io import savemat

    def cells(*values: object) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array

    boxed = {"category": "dog", "box": np.array([1.0, 2.0, 30.0, 20.0])}
    entries = cells(
        {"filename": "1.jpg", "objects": cells(boxed, boxed)}, {"filename": "2.jpg", "objects": cells()}
    )
    savemat(folder / "a.mat", {"annotations": entries})
    return [b"MATLAB 5.0".ljust(116) + (folder / "a.mat").read_bytes()[116:]]  # without the time


@target("unrel-mat", _mat_seeds, tokens=[b"\x0e\0\0\0", b"\x0f\0\0\0", b"filename", b"\xff\xff\xff\x7f"])
def _unrel(folder: Path, data: bytes) -> None:
    picture(folder / "images" / "1.jpg")
    put(folder / "annotations.mat", data)
    for image in read_unrel(folder, Choice()).images:
        assert image.path.resolve().is_relative_to(folder.resolve())
