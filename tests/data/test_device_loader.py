"""Decoding on the device gives the batches of the CPU; here the device is the CPU as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.commands.train_options import parse
from cgc.commands.train_presets import PRESETS
from cgc.commands.training_data import TrainingData
from cgc.data import device_loader
from cgc.data.decode import decode_jpegs
from cgc.data.device_loader import DeviceLoader
from cgc.data.folders import ImageList, open_split
from cgc.data.method_views import GridViews
from cgc.data.pixels import Pixels, _grid, _resized
from cgc.data.seeding import SeededSampler
from cgc.data.views import Batch, EvalViews, TrainViews, make_loader
from cgc.errors import InputError
from tests.data.images import save_photograph

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    """JPEGs of several sizes and kinds, a PNG, and three files that cannot be read."""
    root = tmp_path_factory.mktemp("device")
    for c, name in enumerate("ab"):
        for k in range(4):
            save_photograph(root / "train" / name / f"{k}.jpg", 60 + 9 * k, 70 - 5 * k, 10 * c + k)
    save_photograph(root / "train" / "a" / "p.png", 50, 40, 30)
    with Image.open(root / "train" / "b" / "0.jpg") as image:
        image.convert("L").save(root / "train" / "b" / "grey.jpg")
        image.convert("CMYK").save(root / "train" / "b" / "cmyk.jpg")
    whole = (root / "train" / "a" / "1.jpg").read_bytes()
    (root / "train" / "a" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "a" / "empty.jpg").write_bytes(b"")
    (root / "train" / "b" / "gone.jpg").symlink_to("nowhere.jpg")
    return open_split(root, "train")


def batches(views: EvalViews, workers: int, on_device: bool) -> list[Batch]:
    order = SeededSampler(len(views), seed=3)
    if on_device:
        return list(DeviceLoader(views, order, batch_size=4, workers=workers, device=CPU))
    return list(make_loader(views, order, batch_size=4, workers=workers))


def same(one: list[Batch], other: list[Batch]) -> None:
    for a, b in zip(one, other, strict=True):
        for name, x, y in zip(Batch._fields, a, b, strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, name


@pytest.mark.parametrize("workers", [0, 2])
def test_the_batches_of_the_cpu(images: ImageList, workers: int) -> None:
    one = batches(TrainViews(images, 32), 0, on_device=False)
    assert sum(len(batch.unreadable) for batch in one) >= 3
    same(batches(TrainViews(images, 32, decoder="gpu"), workers, on_device=True), one)


def test_distractors_that_no_worker_read(images: ImageList) -> None:
    same(
        batches(GridViews(images, 32, None), 0, on_device=True),
        batches(GridViews(images, 32, None), 0, on_device=False),
    )


def test_ordinary_jpegs_are_left_to_the_device(images: ImageList, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else: what is damaged has to be refused as everywhere."""
    asked: list[int] = []

    def counting(files: list[torch.Tensor], device: torch.device) -> list[Pixels | None]:
        asked.append(len(files))
        return decode_jpegs(files, device)

    monkeypatch.setattr(device_loader, "decode_jpegs", counting)
    batches(EvalViews(images, 32), 0, on_device=True)
    assert sum(asked) == 9  # eight in colour, one grey


def test_a_file_that_the_device_refuses_does_not_cost_the_others(images: ImageList) -> None:
    whole = torch.frombuffer(bytearray(images.read(0)), dtype=torch.uint8)
    decoded = decode_jpegs([whole, torch.zeros(50, dtype=torch.uint8), whole], CPU)
    assert decoded[1] is None
    assert decoded[0] is not None
    assert decoded[2] is not None
    assert torch.equal(decoded[0].rgb_HW3, decoded[2].rgb_HW3)
    assert decode_jpegs([], CPU) == []


def test_too_many_unreadable_images_end_it_in_one_line(tmp_path: Path) -> None:
    for k in range(33):
        (tmp_path / "train" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "a" / f"{k}.jpg").write_bytes(b"no image")
    views = EvalViews(open_split(tmp_path, "train"), 32)
    with pytest.raises(InputError, match="32 unreadable images in a row"):
        batches(views, 0, on_device=True)


@pytest.mark.parametrize("side", [20, 64, 150])
def test_resizing_in_float_is_resizing_bytes(side: int) -> None:
    """What a GPU computes: within a grey level of the CPU's integers, which are rounded once more on the way."""
    noise = torch.from_numpy(np.random.default_rng(side).integers(0, 256, (91, 120, 3), dtype=np.uint8))
    rows, columns = _grid(0, 91, side, 91), _grid(8, 108, side, 120)
    assert rows is not None
    assert columns is not None
    part = noise[:, 8:108][None].permute(0, 3, 1, 2)
    one, other = (_resized(part, rows, columns, as_bytes=kind).int() for kind in (True, False))
    assert one.shape == other.shape
    assert int((one - other).abs().max()) <= 1


def test_the_option_needs_a_gpu(tmp_path: Path) -> None:
    options = parse([str(tmp_path), "--decoder", "gpu"], PRESETS["cgc"])
    with pytest.raises(InputError, match="--decoder gpu needs a CUDA device, this is cpu"):
        TrainingData(options, CPU)
