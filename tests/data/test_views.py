from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import CenterCrop, Resize
from torchvision.transforms.functional import resized_crop

from cgc.data.folders import ImageList, open_split
from cgc.data.views import (
    Batch,
    Decoder,
    EvalViews,
    Sample,
    SeededSampler,
    TrainViews,
    decode_rgb,
    draw_window,
    make_loader,
    query_view,
    random_view,
)
from cgc.errors import InputError
from cgc.spatial import crop_parameters
from tests.data.images import image_folder, photograph


@pytest.fixture
def images(tmp_path: Path) -> ImageList:
    return open_split(image_folder(tmp_path, 4), "train")


@pytest.fixture
def photographs(tmp_path: Path) -> ImageList:
    """Eight JPEGs of several kinds and sizes; the seventh is cut short."""
    sizes = [(300, 200), (200, 300), (97, 61), (64, 64), (500, 375), (40, 30), (210, 190), (1, 50)]
    for index, size in enumerate(sizes):
        path = tmp_path / "train" / ("ant", "bee")[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = photograph(*size, index).convert("L" if index == 2 else "RGB")
        image.save(path, progressive=index == 3, subsampling=index % 3)
        if index == 6:
            path.write_bytes(path.read_bytes()[:-100])
    return open_split(tmp_path, "train")


def batches(
    images: ImageList,
    workers: int = 0,
    *,
    seed: int = 3,
    epoch: int = 0,
    start: int = 0,
    batch_size: int = 3,
    decoder: Decoder = "auto",
) -> list[Batch]:
    sampler = SeededSampler(len(images), seed=seed)
    sampler.set_epoch(epoch, start=start)
    views = TrainViews(images, 32, decoder=decoder)
    return list(make_loader(views, sampler, batch_size=batch_size, workers=workers))


def same(one: Batch, other: Batch) -> bool:
    assert one.xe is not None
    assert other.xe is not None
    return one.unreadable == other.unreadable and all(
        torch.equal(a, b)
        for a, b in (
            (one.xe, other.xe),
            (one.query, other.query),
            (one.labels, other.labels),
            (one.indices, other.indices),
        )
    )


@pytest.mark.parametrize(
    ("width", "height", "size", "resize"),
    [
        (500, 375, 224, 256),
        (333, 500, 224, 256),
        (64, 64, 64, 73),
        (256, 256, 224, 256),
        (1200, 90, 96, 110),
        (37, 401, 32, 32),
        (20, 11, 32, 37),
        (301, 299, 224, 500),
    ],
)
def test_query_is_resize_then_centre_crop(width: int, height: int, size: int, resize: int) -> None:
    image = photograph(width, height)
    expected = np.asarray(CenterCrop(size)(Resize(resize)(image))).astype(int)
    difference = np.asarray(query_view(image, size, resize)).astype(int) - expected
    assert difference.shape == (size, size, 3)
    # Pillow rounds between its two passes, and takes first the one that is cheaper for the given box.
    assert np.abs(difference).max() <= 1
    assert abs(difference.mean()) < 0.02


def test_xe_is_a_resized_crop_of_the_original() -> None:
    image = photograph(300, 200)
    flips = set()
    for seed in range(12):
        view = np.asarray(random_view(image, 96, torch.Generator().manual_seed(seed))).astype(int)
        drawn = crop_parameters(1, 200, 300, generator=torch.Generator().manual_seed(seed))
        crop = resized_crop(image, *(int(v) for v in drawn), [96, 96])
        inner = (slice(4, -4), slice(4, -4))  # at the border ours sees the pixels beside the crop
        plain = np.abs(view - np.asarray(crop).astype(int))[inner].max()
        mirrored = np.abs(view[:, ::-1] - np.asarray(crop).astype(int))[inner].max()
        assert min(plain, mirrored) <= 1 < max(plain, mirrored)
        flips.add(plain > mirrored)
    assert flips == {True, False}


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_tiny_and_thin_images_have_views(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (9, 9, 9))
    assert query_view(image, 32, 37).size == (32, 32)
    assert np.asarray(random_view(image, 32, torch.Generator().manual_seed(0))).max() == 9


def test_a_crop_larger_than_the_resized_image_is_refused(images: ImageList) -> None:
    with pytest.raises(ValueError, match="cannot crop 64 px"):
        EvalViews(images, 64, resize=63)


def test_batches_are_uint8_in_channels_last_and_the_short_one_is_kept(images: ImageList) -> None:
    result = batches(images)
    assert [len(batch.labels) for batch in result] == [3, 3, 2]
    for batch in result:
        for view in (batch.xe, batch.query):
            assert view is not None
            assert view.dtype == torch.uint8
            assert view.shape == (len(batch.labels), 3, 32, 32)
            assert view.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        assert batch.labels.tolist() == images.labels[batch.indices].tolist()
    assert sorted(torch.cat([batch.indices for batch in result]).tolist()) == list(range(8))


def test_eval_views_are_the_queries_in_order(images: ImageList) -> None:
    loader = make_loader(
        EvalViews(images, 32, decoder="pillow"),
        SeededSampler(len(images), shuffle=False),
        batch_size=8,
        workers=0,
    )
    (batch,) = loader
    assert len(loader) == 1
    assert batch.xe is None
    assert batch.indices.tolist() == list(range(8))
    for row, index in enumerate(batch.indices.tolist()):
        with Image.open(images.path(index)) as image:
            expected = np.asarray(query_view(image, 32, 37))
        assert np.array_equal(batch.query[row].permute(1, 2, 0).numpy(), expected)


def test_same_seed_same_batches_whatever_the_workers(images: ImageList) -> None:
    alone, helped = batches(images, 0), batches(images, 2)
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_of_photographs_do_not_depend_on_the_workers(photographs: ImageList, workers: int) -> None:
    alone, helped = batches(photographs, 0), batches(photographs, workers)
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_pillow_alone_resizes_the_box_of_the_window(photographs: ImageList) -> None:
    views = TrainViews(photographs, 48, decoder="pillow")
    used = [index for index in range(8) if "6.jpg" not in photographs.path(index).name]
    flips = set()
    for index in used:
        image = decode_rgb(photographs.path(index))
        for seed in range(4):
            window, hflip = draw_window(image.size, torch.Generator().manual_seed(seed))
            expected = np.asarray(image.resize((48, 48), Image.Resampling.BILINEAR, box=window))
            sample = views[(index, seed)]
            assert sample.xe is not None
            assert np.array_equal(sample.xe.numpy(), expected[:, ::-1] if hflip else expected)
            assert np.array_equal(sample.query.numpy(), np.asarray(query_view(image, 48, 55)))
            flips.add(hflip)
    assert flips == {True, False}


def test_views_of_both_decoders_are_alike_and_so_is_what_is_refused(photographs: ImageList) -> None:
    auto, pillow = batches(photographs), batches(photographs, decoder="pillow")
    refused = [line for batch in auto for line in batch.unreadable]
    assert len(refused) == 1
    assert "6.jpg: image file is truncated" in refused[0]
    for one, other in zip(auto, pillow, strict=True):
        assert one.unreadable == other.unreadable
        assert torch.equal(one.indices, other.indices)
        assert one.xe is not None
        assert other.xe is not None
        for a, b in ((one.xe, other.xe), (one.query, other.query)):
            assert a.stride() == b.stride()
            assert (a.float() - b.float()).abs().mean((1, 2, 3)).max() <= 2


def test_where_torch_is_slow_auto_is_pillow(photographs: ImageList, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgc.data.views.resizes_fast", lambda: False)
    pillow = batches(photographs, decoder="pillow")
    assert all(same(a, b) for a, b in zip(batches(photographs), pillow, strict=True))


def test_an_unknown_decoder_is_refused(images: ImageList) -> None:
    with pytest.raises(ValueError, match="unknown decoder 'opencv', one of auto, pillow, gpu is expected"):
        EvalViews(images, 32, decoder="opencv")  # type: ignore[arg-type]


def test_persistent_workers_follow_the_epoch(images: ImageList) -> None:
    sampler = SeededSampler(len(images), seed=3)
    loader = make_loader(TrainViews(images, 32), sampler, batch_size=3, workers=2)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        expected = batches(images, 0, epoch=epoch)
        assert all(same(a, b) for a, b in zip(loader, expected, strict=True))


def test_other_seeds_and_epochs_give_other_orders_and_crops(images: ImageList) -> None:
    first, other_seed, other_epoch = batches(images), batches(images, seed=4), batches(images, epoch=1)
    assert not same(first[0], other_seed[0])
    assert not same(first[0], other_epoch[0])
    views = TrainViews(images, 32)
    one, two = views[(0, 1)], views[(0, 2)]
    assert one.xe is not None
    assert two.xe is not None
    assert not torch.equal(one.xe, two.xe)
    assert torch.equal(one.query, two.query)


def test_an_epoch_goes_on_from_where_it_stopped(images: ImageList) -> None:
    whole, rest = batches(images), batches(images, start=3)
    assert all(same(a, b) for a, b in zip(whole[1:], rest, strict=True))
    sampler = SeededSampler(8, start=3)
    assert len(sampler) == len(list(sampler)) == 5
    sampler.set_epoch(1)
    assert len(sampler) == len(list(sampler)) == 8
    assert list(SeededSampler(8, start=8)) == []
    with pytest.raises(ValueError, match="cannot skip 9 of 8"):
        SeededSampler(8, start=9)


def test_item_seeds_differ_in_the_bits_that_torch_uses() -> None:
    seeds = []
    for run_seed in (0, 1):
        for epoch in (0, 1, 2):
            sampler = SeededSampler(5000, seed=run_seed)
            sampler.set_epoch(epoch)
            items = list(sampler)
            assert sorted(index for index, _ in items) == list(range(5000))
            seeds += [seed & 0xFFFFFFFF for _, seed in items]
    assert len(seeds) - len(set(seeds)) <= 3  # 30,000 random words of 32 bits: 0.1 collisions expected


def test_global_random_states_are_neither_used_nor_moved(images: ImageList) -> None:
    torch.manual_seed(1)
    before = batches(images)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002  the legacy global state is what this test watches
    random.seed(2)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    after = batches(images)
    assert all(same(a, b) for a, b in zip(before, after, strict=True))
    batches(images, 1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_replaced_by_the_next(images: ImageList, workers: int) -> None:
    whole = batches(images)
    for broken, content in ((3, b""), (7, b"no image")):
        images.path(broken).write_bytes(content)
    result = batches(images, workers)
    assert [batch.query.shape for batch in result] == [batch.query.shape for batch in whole]
    asked = torch.cat([batch.indices for batch in whole]).tolist()
    used = torch.cat([batch.indices for batch in result]).tolist()
    assert used == [{3: 4, 7: 0}.get(index, index) for index in asked]
    assert torch.cat([b.labels for b in result]).tolist() == images.labels[used].tolist()
    reported = sorted(line for batch in result for line in batch.unreadable)
    assert reported == [f"{images.path(3)}: empty file", f"{images.path(7)}: not an image"]


@pytest.mark.parametrize("workers", [0, 2])
def test_only_unreadable_images_end_in_one_clear_line(images: ImageList, workers: int) -> None:
    for index in range(len(images)):
        images.path(index).write_bytes(b"")
    with pytest.raises(InputError) as raised:
        batches(images, workers)
    assert str(raised.value).startswith("8 unreadable images in a row, the first: ")
    assert str(raised.value).endswith(".png: empty file")
    assert "\n" not in str(raised.value)


def test_the_loader_is_a_dataloader_with_a_length(images: ImageList) -> None:
    loader = make_loader(TrainViews(images, 32), SeededSampler(8), batch_size=3, workers=0)
    assert isinstance(loader, DataLoader)
    assert len(loader) == 3


class _ThreadCount(EvalViews):
    def _sample(self, image: Image.Image, index: int, seed: int) -> Sample:
        return Sample(None, torch.full((4, 4, 3), torch.get_num_threads(), dtype=torch.uint8), 0, index)


def test_a_worker_uses_one_thread(images: ImageList) -> None:
    loader = make_loader(_ThreadCount(images, 4), SeededSampler(8), batch_size=8, workers=1)
    (batch,) = loader
    assert batch.query.unique().tolist() == [1]
