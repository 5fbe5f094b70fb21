"""A labelled loader and the stream of unlabelled images, side by side."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.data.folders import ImageList, open_split
from cgc.data.shares import plan_of
from cgc.data.unlabelled import PairedBatch, PairedLoader, open_unlabelled, unlabelled_order
from cgc.data.views import EvalViews, Sample, SeededSampler, TrainViews, ViewLoader, make_loader
from cgc.errors import InputError
from tests.data.images import image_folder, save_photograph


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled images, 8 in train; 5 without labels in `more`."""
    root = image_folder(tmp_path_factory.mktemp("paired"), 4)
    for k in range(5):
        save_photograph(root / "more" / f"{k}.png", 33 + k, 40, 500 + k)
    return root


LABELLED, UNLABELLED = 3, 4  # batch sizes: three steps of 8 images; every epoch takes 12 of the stream


def paired(folder: Path, workers: int = 0, *, seed: int = 3) -> PairedLoader:
    train = open_split(folder, "train")
    sampler = SeededSampler(len(train), seed=seed)
    labelled = make_loader(TrainViews(train, 32), sampler, batch_size=LABELLED, workers=workers)
    more = open_unlabelled(folder / "more", batch_size=UNLABELLED)
    return PairedLoader(labelled, stream(more, UNLABELLED, workers, seed=seed))


def stream(images: ImageList, batch_size: int, workers: int = 0, *, seed: int = 3) -> ViewLoader:
    order = unlabelled_order(images, seed)
    return make_loader(EvalViews(images, 32), order, batch_size=batch_size, workers=workers)


def same(one: PairedBatch, other: PairedBatch) -> bool:
    return one.unreadable == other.unreadable and all(
        torch.equal(a, b)
        for a, b in zip(one, other, strict=True)
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    )


def run(loader: PairedLoader, epochs: int) -> list[list[PairedBatch]]:
    found = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        found.append(list(loader))
    return found


def test_a_position_is_one_of_both_lists_and_of_the_unlabelled_batch(folder: Path) -> None:
    """After s steps the stream stands at item s·M: of another list or with another M these are other images."""
    loader = paired(folder)
    said = plan_of(loader).described
    assert plan_of(paired(folder, seed=4)).described == said  # the seed is compared by itself
    more = open_unlabelled(folder / "more")
    others = [
        PairedLoader(loader.labelled, stream(more, UNLABELLED + 1)),
        PairedLoader(loader.labelled, stream(more.subset(np.arange(1, len(more))), UNLABELLED)),
        PairedLoader(loader.labelled, stream(more.subset(np.arange(len(more))[::-1]), UNLABELLED)),
    ]
    assert len({said, *(plan_of(other).described for other in others)}) == 4


def test_a_labelled_batch_has_a_full_unlabelled_one_beside_it(folder: Path) -> None:
    loader = paired(folder)
    assert len(loader) == 3
    assert (loader.batch_size, loader.unlabelled_batch_size) == (3, 4)
    batches = list(loader)
    assert [len(batch.labels) for batch in batches] == [3, 3, 2]
    train = open_split(folder, "train")
    alone = make_loader(TrainViews(train, 32), SeededSampler(8, seed=3), batch_size=3, workers=0)
    for batch, plain in zip(batches, alone, strict=True):
        for name in ("xe", "query", "labels", "indices", "unreadable"):
            found, expected = getattr(batch, name), getattr(plain, name)
            assert torch.equal(found, expected) if isinstance(found, torch.Tensor) else found == expected
        assert batch.unlabelled_query.shape == (4, 3, 32, 32)
        assert batch.unlabelled_query.dtype == torch.uint8
        assert batch.unlabelled_query.is_contiguous(memory_format=torch.channels_last)
        assert batch.saliency is None


def test_the_unlabelled_views_are_the_queries_of_the_stream_across_passes(folder: Path) -> None:
    more = open_unlabelled(folder / "more")
    views = EvalViews(more, 32)
    batches = list(itertools.chain(*run(paired(folder), 4)))
    indices = torch.cat([batch.unlabelled_indices for batch in batches]).tolist()
    assert len(indices) == 4 * 12
    for start in range(0, 45, 5):
        assert sorted(indices[start : start + 5]) == list(range(5))
    orders = {tuple(indices[start : start + 5]) for start in range(0, 45, 5)}
    assert len(orders) > 1
    for batch in batches:
        for row, index in enumerate(batch.unlabelled_indices.tolist()):
            assert torch.equal(batch.unlabelled_query[row], views[(index, 0)].query.permute(2, 0, 1))


class _WithSaliency(EvalViews):
    def _sample(self, image: Image.Image, index: int, seed: int) -> Sample:
        saliency = torch.full((32, 32), index, dtype=torch.uint8)
        return super()._sample(image, index, seed)._replace(saliency=saliency)


def test_other_views_bring_the_saliency_of_the_unlabelled_images(folder: Path) -> None:
    plain, more = paired(folder), open_unlabelled(folder / "more")
    views = _WithSaliency(more, 32)
    masked = make_loader(views, unlabelled_order(more, 3), batch_size=4, workers=0)
    for batch, without in zip(PairedLoader(plain.labelled, masked), paired(folder), strict=True):
        assert batch.saliency is not None
        assert batch.saliency[:, 0, 0].tolist() == batch.unlabelled_indices.tolist()
        assert batch.saliency.shape == (4, 32, 32)
        assert torch.equal(batch.unlabelled_query, without.unlabelled_query)


def test_the_two_sides_have_orders_of_their_own(folder: Path) -> None:
    """Also where both show the same folder."""
    train = open_split(folder, "train")
    labelled = make_loader(TrainViews(train, 32), SeededSampler(8, seed=3), batch_size=8, workers=0)
    loader = PairedLoader(labelled, stream(train, 8))
    pairs = [batch for epoch in run(loader, 3) for batch in epoch]
    assert not any(torch.equal(batch.indices, batch.unlabelled_indices) for batch in pairs)


def test_other_seeds_give_other_streams(folder: Path) -> None:
    pairs = zip(run(paired(folder), 2), run(paired(folder, seed=4), 2), strict=True)
    assert not all(
        torch.equal(a.unlabelled_indices, b.unlabelled_indices)
        for one, other in pairs
        for a, b in zip(one, other, strict=True)
    )


def test_a_run_goes_on_at_any_step(folder: Path) -> None:
    whole = run(paired(folder), 3)
    for epoch, step in itertools.product(range(3), range(4)):
        loader = paired(folder)
        loader.sampler.set_epoch(epoch, start=min(step * LABELLED, 8))  # as the training loop does
        assert len(loader) == 3 - step
        rest = list(loader)
        assert len(rest) == 3 - step
        assert all(same(a, b) for a, b in zip(rest, whole[epoch][step:], strict=True))


def test_same_batches_whatever_the_workers(folder: Path) -> None:
    """Persistent workers, a loop that is left early, and one that begins in the middle."""
    alone, helped = paired(folder), paired(folder, 2)
    for epoch, start, steps in ((0, 0, 3), (1, 0, 1), (1, 3, 2), (2, 0, 3)):
        for loader in (alone, helped):
            loader.set_epoch(epoch, start=start)
        pairs = list(itertools.islice(zip(alone, helped, strict=True), steps))
        assert len(pairs) == steps
        assert all(same(one, other) for one, other in pairs)


def test_global_random_states_are_neither_used_nor_moved(folder: Path) -> None:
    torch.manual_seed(1)
    before = run(paired(folder), 1)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    after = run(paired(folder), 1)
    assert all(same(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_start_inside_a_batch_is_refused(folder: Path) -> None:
    loader = paired(folder)
    with pytest.raises(ValueError, match="4 labelled items are no whole number of batches of 3"):
        loader.set_epoch(0, start=4)
    loader.set_epoch(0, start=8)
    assert list(loader) == []


def test_unreadable_images_of_both_sides_are_replaced_and_named(tmp_path: Path) -> None:
    root = image_folder(tmp_path, 4)
    for k in range(5):
        save_photograph(root / "more" / f"{k}.png", seed=k)
    whole = run(paired(root), 1)[0]
    (root / "more" / "4.png").write_bytes(b"no image")
    (root / "train" / "ant" / "2.png").write_bytes(b"")
    found = run(paired(root), 1)[0]
    for intact, batch in zip(whole, found, strict=True):
        asked = intact.unlabelled_indices.tolist()
        assert batch.unlabelled_indices.tolist() == [{4: 0}.get(index, index) for index in asked]
        lines = [f"{root}/train/ant/2.png: empty file"] * intact.indices.tolist().count(2)
        lines += [f"{root}/more/4.png: not an image"] * asked.count(4)
        assert batch.unreadable == lines
    assert sum(len(batch.unreadable) for batch in found) > 2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("side", ["more", "train"])
def test_a_broken_side_ends_in_one_clear_line(tmp_path: Path, workers: int, side: str) -> None:
    root = image_folder(tmp_path, 4)
    for k in range(5):
        save_photograph(root / "more" / f"{k}.png", seed=k)
    for path in (root / side).rglob("*.png"):
        path.write_bytes(b"")
    loader = paired(root, workers)
    with pytest.raises(InputError) as raised:
        list(loader)
    assert str(raised.value).startswith(
        f"{5 if side == 'more' else 8} unreadable images in a row, the first: "
    )
    assert "\n" not in str(raised.value)
    # Nothing is left that an exception could keep waiting.
    assert loader.labelled._iterator is None
    assert loader.unlabelled._iterator is None


def test_loaders_in_the_wrong_place_are_refused(folder: Path) -> None:
    good = paired(folder)
    plain = good.labelled
    with pytest.raises(ValueError, match="needs a StreamSampler, got SeededSampler"):
        PairedLoader(plain, plain)
