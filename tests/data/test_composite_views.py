"""Views for composites: which items of a batch bring distractors of their own, and how often an image is decoded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from cgc.data.folders import ImageList, open_split
from cgc.data.method_views import CompositeViews, GridViews, MultiLabelGridViews
from cgc.data.multi_label import open_distractors, open_multi_label
from cgc.data.views import Batch, Sample, SeededSampler, make_loader
from cgc.errors import InputError
from cgc.gradcam import GradCAMModel
from cgc.methods import GridConsistencyMethod
from cgc.models.backbones import build_backbone
from tests.data.boxed_fixture import make_image
from tests.data.test_multi_label import CAT, COW, DOG, image_of, write_split


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each image was read to be decoded, by its name."""
    counts: Counter[str] = Counter()
    read = ImageList.read

    def counted(self: ImageList, index: int) -> bytes:
        counts[self.path(index).name] += 1
        return read(self, index)

    monkeypatch.setattr(ImageList, "read", counted)
    return counts


def class_views(root: Path, ants: int, bees: int) -> GridViews:
    """Images of one grey each: `image_of` gives their numbers, ants first."""
    for number in range(ants + bees):
        name = "ant" if number < ants else "bee"
        colour = f"rgb({9 * number}, {9 * number}, {9 * number})"
        make_image(root / "train" / name / f"{number}.png", colour, (40, 30))
    return GridViews(open_split(root, "train"), 16, 16)


def label_views(root: Path, shown: list[list[int]]) -> MultiLabelGridViews:
    write_split(root, shown)
    images, _ = open_multi_label(root, "train")
    return MultiLabelGridViews(images, 16, open_distractors(images, None)[0])


def together(views: CompositeViews, items: list[tuple[int, int]]) -> list[Sample]:
    samples = views.__getitems__(items)
    assert isinstance(samples, list)
    return samples


def loaded(views: CompositeViews, batch_size: int, workers: int = 0) -> list[Batch]:
    return list(make_loader(views, SeededSampler(len(views), seed=3), batch_size=batch_size, workers=workers))


def test_a_batch_with_enough_others_decodes_each_image_once(tmp_path: Path, decoded: Counter[str]) -> None:
    for views in (
        class_views(tmp_path / "classes", 4, 4),
        label_views(tmp_path / "labels", [[CAT], [DOG], [COW]] * 3),
    ):
        decoded.clear()
        (batch,) = loaded(views, len(views))
        assert batch.distractors is None
        assert decoded == {f"{number}.png": 1 for number in range(len(views))}


def test_only_items_that_lack_distractors_bring_some(tmp_path: Path, decoded: Counter[str]) -> None:
    """Three ants and two bees: a bee finds three ants in its batch, an ant only two bees."""
    views = class_views(tmp_path, 3, 2)
    samples = together(views, [(index, 50 + index) for index in range(5)])
    assert [sample.distractors is not None for sample in samples] == [True] * 3 + [False] * 2
    for sample in samples[:3]:
        assert sample.distractors is not None
        assert set(image_of(sample.distractors.permute(0, 3, 1, 2))) <= {3, 4}
    assert sum(decoded.values()) == 5 + 3 * 3


def test_with_several_labels_the_drawn_category_decides(tmp_path: Path, decoded: Counter[str]) -> None:
    """Three dogs beside a cat and a cow: who explains a dog has two others without one, the cat and the cow four."""
    views = label_views(tmp_path, [[DOG], [DOG], [DOG], [CAT], [COW], [COW], [CAT]])
    samples = together(views, [(index, 50 + index) for index in range(5)])
    assert [sample.category for sample in samples] == [1, 1, 1, 0, 2]
    assert [sample.distractors is not None for sample in samples] == [True] * 3 + [False] * 2
    for sample in samples[:3]:
        assert sample.distractors is not None
        others = image_of(sample.distractors.permute(0, 3, 1, 2))
        assert len(set(others)) == 3
        assert set(others) <= {3, 4, 5, 6}
    assert sum(decoded.values()) == 5 + 3 * 3


def test_the_drawn_category_is_a_function_of_the_item(tmp_path: Path) -> None:
    """Alone, in a batch of its own, and among others that change what it brings."""
    views = label_views(tmp_path, [[CAT, DOG, COW], *[[CAT], [DOG], [COW]] * 3])
    drawn = set()
    for seed in range(20):
        category = views[(0, seed)].category
        batches = [[(0, seed)], [(index, seed + index) for index in range(8)]]
        found = [together(views, items)[0] for items in batches]
        assert [sample.category for sample in found] == [category, category]
        assert found[0].distractors is not None
        assert found[1].distractors is None
        drawn.add(category)
    assert drawn == {0, 1, 2}


@pytest.mark.parametrize("batch_size", [3, 5, 8])
def test_composites_lack_the_category(batch_size: int, tmp_path: Path) -> None:
    """From the loader to the composites, with whatever came from the batch and from elsewhere."""
    views = label_views(tmp_path, [[CAT, DOG], [DOG], [DOG, COW], [COW], [CAT]] * 2)  # ten: sorted by name
    method = GridConsistencyMethod(GradCAMModel(build_backbone("resnet_tiny", 3)), multi_label=True)
    sources = set()
    for batch in loaded(views, batch_size):
        _, composites, _, target, quadrant, usable = method.prepare(batch, torch.Generator().manual_seed(1))
        assert usable.all()
        rows = [] if batch.distractor_rows is None else batch.distractor_rows.tolist()
        for row, own in enumerate(batch.indices.tolist()):
            cells = [
                image_of(composites[row, None, :, y : y + 16, x : x + 16])[0]
                for y in (0, 16)
                for x in (0, 16)
            ]
            assert cells.pop(int(quadrant[row])) == own
            assert len(set(cells)) == 3
            assert not views.present_NK[cells, int(target[row])].any()
            sources.add(row in rows)
    assert sources == ({True} if batch_size == 3 else {True, False})


def test_batches_do_not_depend_on_loading_processes(tmp_path: Path) -> None:
    for views in (
        class_views(tmp_path / "classes", 7, 3),
        label_views(tmp_path / "labels", [[CAT, DOG], [DOG], [DOG, COW], [COW], [DOG]] * 2),
    ):
        one, other = loaded(views, 5), loaded(views, 5, workers=2)
        assert any(batch.distractors is not None for batch in one)
        for a, b in zip(one, other, strict=True):
            for x, y in zip(a, b, strict=True):
                assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


def test_unreadable_distractors_of_a_class(tmp_path: Path) -> None:
    views = class_views(tmp_path, 2, 3)
    (tmp_path / "train" / "bee" / "4.png").write_bytes(b"")
    found = [together(views, [(0, seed)])[0] for seed in range(10)]
    assert all(sample.distractors is not None for sample in found)
    assert any("4.png" in line for sample in found for line in sample.unreadable)
    for number in (2, 3):
        (tmp_path / "train" / "bee" / f"{number}.png").write_bytes(b"")
    failure = views.__getitems__([(0, 1)])
    assert isinstance(failure, InputError)
    assert "give no three readable ones" in str(failure)


def test_composites_need_two_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images of two classes at least"):
        class_views(tmp_path, 5, 0)
