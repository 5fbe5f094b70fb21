"""A folder of images of which one in a hundred is damaged or odd, and what training and evaluation make of it.

python -m tests.reliability.damaged --images 10000
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cgc.commands.evaluate import main as evaluate
from cgc.commands.train import main as train
from cgc.engine import loop
from tests.data.images import photograph

CLASSES = ("ant", "bee", "cow", "dog")


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _picture(seed: int) -> Image.Image:
    return photograph(48, 40, seed)


def _png_that_says(width: int, height: int) -> bytes:
    """A valid header, and next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


def _rotated(seed: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _encoded(_picture(seed), "JPEG", exif=exif)


def _sixteen_bits(seed: int) -> bytes:
    grey = np.asarray(_picture(seed).convert("L")).astype(np.uint16) * 257
    return _encoded(Image.fromarray(grey), "PNG")


def _animated(seed: int) -> bytes:
    return _encoded(_picture(seed), "WEBP", save_all=True, append_images=[_picture(seed + 1)])


# Bytes of a file, by what is wrong with it. The first ones cannot be read, the others are odd and must be.
BROKEN: dict[str, Callable[[int], bytes]] = {
    "truncated JPEG": lambda seed: _encoded(_picture(seed), "JPEG")[:700],
    "truncated PNG": lambda seed: _encoded(_picture(seed), "PNG")[:500],
    "only a header": lambda seed: _encoded(_picture(seed), "JPEG")[:20],
    "no bytes": lambda seed: b"",
    "zeros": lambda seed: bytes(5000),
    "text": lambda seed: b"<html>404 not found</html>",
    "flipped bits": lambda seed: _encoded(_picture(seed), "PNG")[:200] + bytes(range(256)) * 8,
    "decompression bomb": lambda seed: _png_that_says(60_000, 60_000),
    "huge and empty": lambda seed: _png_that_says(9_000, 9_000),
}
ODD: dict[str, Callable[[int], bytes]] = {
    "another suffix": lambda seed: _encoded(_picture(seed), "PNG"),
    "EXIF rotation": _rotated,
    "16 bits": _sixteen_bits,
    "CMYK": lambda seed: _encoded(_picture(seed).convert("CMYK"), "JPEG"),
    "palette": lambda seed: _encoded(_picture(seed).convert("P"), "PNG", transparency=0),
    "animated": _animated,
    "one pixel": lambda seed: _encoded(Image.new("RGB", (1, 1), (9, 9, 9)), "PNG"),
    "very thin": lambda seed: _encoded(Image.new("RGB", (2000, 3), (9, 99, 9)), "PNG"),
}
LINKED = (
    "dangling link",
    "a folder with an image's name",
    "no permission",
)  # the last one where one is not root


def plant(folder: Path, images: int, share: float = 0.01, seed: int = 0) -> list[Path]:
    """Fill `<folder>/<class>/<k>.jpg`; the files that cannot be read. At least one of every kind is planted."""
    chance = random.Random(seed)
    kinds = [*BROKEN, *ODD, *LINKED[: 2 if os.geteuid() == 0 else 3]]
    count = max(round(share * images), len(kinds))
    places = dict(
        zip(
            sorted(chance.sample(range(images), count)),
            [kinds[k % len(kinds)] for k in range(count)],
            strict=True,
        )
    )
    good = [_encoded(_picture(k), "JPEG", quality=80) for k in range(50)]
    broken = []
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for number in range(images):
        path, kind = folder / CLASSES[number % len(CLASSES)] / f"{number:06d}.jpg", places.get(number)
        if kind == "dangling link":
            path.symlink_to(folder / "nowhere")
        elif kind == "a folder with an image's name":
            path.mkdir()
            continue  # no image, so none is missing
        else:
            path.write_bytes(
                {**BROKEN, **ODD}[kind](number) if kind in {**BROKEN, **ODD} else good[number % 50]
            )
        if kind == "no permission":
            path.chmod(0)
        if kind in BROKEN or kind in LINKED:
            broken.append(path)
    return broken


@dataclass(frozen=True)
class Found:
    """Unreadable files by split, those that training and evaluation name, images scored, MB after 1/4 and all steps."""

    planted: dict[str, list[str]]
    training: list[str]
    evaluation: list[str]
    scored: int
    memory: tuple[float, float]


def memory() -> float:
    """Resident memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def go_through(place: Path, images: int, workers: int) -> Found:
    """Train on the folder for an epoch, then score all of it; what was planted, what was reported, and memory."""
    planted = {
        split: plant(place / split, n, seed=s)
        for s, (split, n) in enumerate({"train": images, "val": images // 5}.items())
    }
    seen: list[float] = []
    step = loop.Trainer._step

    def measured(self: loop.Trainer, *arguments: object) -> None:
        step(self, *arguments)  # type: ignore[arg-type]
        seen.append(memory())

    loop.Trainer._step = measured  # type: ignore[method-assign]
    common = ["-a", "resnet_tiny", "--image-size", "32", "-b", "50", "-j", str(workers), "--device", "cpu"]
    try:
        status = train([str(place), *common, "--epochs", "1", "--save_dir", str(place / "run")])
    finally:
        loop.Trainer._step = step  # type: ignore[method-assign]
    assert status == 0
    reported = json.loads((place / "run" / "result.json").read_text())["unreadable_images"]
    words = [str(place / "run" / "model_best.pth.tar"), str(place)]
    words += ["--metrics", "top1", "--input_resize", "32", "-b", "50", "-j", str(workers), "--bootstrap", "0"]
    assert evaluate([*words, "--device", "cpu", "--out", str(place / "scores.json")]) == 0
    scores = json.loads((place / "scores.json").read_text())
    return Found(
        {split: sorted(map(str, paths)) for split, paths in planted.items()},
        sorted(line.partition(": ")[0] for line in reported),
        sorted(line.partition(": ")[0] for lines in scores["skipped"].values() for line in lines),
        scores["images"],
        (seen[len(seen) // 4], seen[-1]),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("-j", "--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = go_through(Path(scratch), options.images, options.workers)
    both = sorted(found.planted["train"] + found.planted["val"])
    print(f"{len(both)} unreadable images planted, {len(found.training)} named by training")
    print(f"{len(found.planted['val'])} of them held out, {len(found.evaluation)} named by the evaluation")
    agree = both == found.training and found.planted["val"] == found.evaluation
    print("the same ones" if agree else "OTHER ONES")
    print(
        f"memory after a quarter of the steps {found.memory[0]:.0f} MB, at the end {found.memory[1]:.0f} MB"
    )
    sys.exit(not agree)
