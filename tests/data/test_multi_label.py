"""Images with several labels from COCO's JSON, their distractors, and the views of both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.data.method_views import MultiLabelGridViews, StretchedViews
from cgc.data.multi_label import Distractors, MultiLabelImages, open_distractors, open_multi_label
from cgc.data.negatives import NegativeImages, negatives_from_coco, write_negatives
from cgc.data.views import Batch, Sample, SeededSampler, make_loader
from cgc.errors import InputError
from tests.data.boxed_fixture import coco_image, coco_json, coco_object, make_image

CATEGORIES = {9: "cow", 3: "cat", 7: "dog"}  # in ascending order of ids: cat, dog, cow
CAT, DOG, COW = 3, 7, 9
# Categories of each image; every image but three has a dog, and all but two have a cat.
SHOWN = [[CAT], [CAT, DOG], [DOG, CAT, COW], [CAT, DOG, COW], [DOG, COW], [COW], [DOG, CAT], [CAT]]
BOX = [2, 2, 9, 9]


def write_split(
    root: Path, shown: list[list[int]], split: str = "train2014", categories: dict[int, str] | None = None
) -> Path:
    """Plain images, each of a grey of its own, with one object of each of their categories; the JSON's path."""
    images = [coco_image(i, f"{i}.png") for i in range(len(shown))]
    pairs = [(i, key) for i, keys in enumerate(shown) for key in keys]
    objects = [coco_object(n, i, key, BOX) for n, (i, key) in enumerate(pairs)]
    return write_json(root, coco_json(images, objects, categories or CATEGORIES), split)


def write_json(root: Path, content: dict[str, object], split: str = "train2014") -> Path:
    for i, entry in enumerate(content["images"]):
        make_image(root / split / entry["file_name"], f"rgb({9 * i}, {9 * i}, {9 * i})", (40, 30))
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def batches(
    images: MultiLabelImages, distractors: Distractors, workers: int = 0, seed: int = 3, epoch: int = 0
) -> list[Batch]:
    sampler = SeededSampler(len(images), seed=seed)
    sampler.set_epoch(epoch)
    views = MultiLabelGridViews(images, 16, distractors)
    return list(make_loader(views, sampler, batch_size=3, workers=workers))


def alone(views: MultiLabelGridViews, index: int, seed: int) -> Sample:
    """The item as a batch of its own, which gives it no distractors."""
    samples = views.__getitems__([(index, seed)])
    assert isinstance(samples, list)
    return samples[0]


def image_of(views: torch.Tensor) -> list[int]:
    """Numbers of the images of plain grey views (…, 3, S, S)."""
    return (views.flatten(-3).float().mean(-1) / 9).round().long().flatten().tolist()


def test_labels_are_the_categories_by_ascending_id(tmp_path: Path) -> None:
    write_split(tmp_path, SHOWN)
    images, notes = open_multi_label(tmp_path, "train")
    assert images.classes == ("cat", "dog", "cow")
    expected = [[key in keys for key in (CAT, DOG, COW)] for keys in SHOWN]
    assert images.present_NK.tolist() == expected
    assert images.images.path(4) == tmp_path / "train2014" / "4.png"
    assert notes == [f"{images.source}: 8 images with annotations, 3 categories"]


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    """An image without annotations, one of an unlisted category, one that is not there; a crowd, and an object
    without extent, are labels."""
    images = [coco_image(i, f"{i}.png") for i in range(5)]
    objects = [
        coco_object(1, 0, CAT, [1, 1, 5, 5]) | {"iscrowd": 1},
        coco_object(2, 1, DOG, [1, 1, 0, 5]),
        coco_object(3, 2, 55, BOX),
        coco_object(4, 3, COW, BOX),
    ]
    write_json(tmp_path, coco_json(images, objects, CATEGORIES))
    (tmp_path / "train2014" / "3.png").unlink()
    found, notes = open_multi_label(tmp_path, "train")
    assert found.names == ("0.png", "1.png")
    assert found.present_NK.tolist() == [[True, False, False], [False, True, False]]
    assert notes[0].endswith("2 images with annotations, 3 categories")
    said = "\n".join(notes[1:])
    assert "1 × no annotation, the first: 4.png" in said
    assert "1 × no usable annotation, the first: 2.png" in said
    assert "category 55, 1 times" in said
    assert "1 × image not on disk, the first: 3.png" in said
    assert len(notes) == 5


def test_years_are_told_apart_by_the_dataset(tmp_path: Path) -> None:
    categories = {k: f"c{k}" for k in range(80)}
    for year in (2014, 2017):
        write_split(tmp_path, [[1], [2]], f"train{year}", categories)
    with pytest.raises(InputError, match="several annotation files for train"):
        open_multi_label(tmp_path, "train")
    images, _ = open_multi_label(tmp_path, "train", dataset="coco2017")
    assert images.images.path(0) == tmp_path / "train2017" / "0.png"


def test_unusable_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_multi_label(tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match="no JSON in"):
        open_multi_label(tmp_path, "train")
    path = write_split(tmp_path, SHOWN)
    with pytest.raises(InputError, match="no annotation file for val"):
        open_multi_label(tmp_path, "val")
    with pytest.raises(InputError, match="3 categories, but coco has 80"):
        open_multi_label(tmp_path, "train", dataset="coco")
    with pytest.raises(InputError, match=r"category 2 by ascending id is 'dog', where the .* have 'ant'"):
        open_multi_label(tmp_path, "train", classes=("cat", "ant", "cow"))
    with pytest.raises(InputError, match="3 categories, where the training images have 2"):
        open_multi_label(tmp_path, "train", classes=("cat", "dog"))
    content = json.loads(path.read_text())
    for wrong in ([], None):
        path.write_text(json.dumps(content | {"categories": wrong}))
        with pytest.raises(InputError, match="categories"):
            open_multi_label(tmp_path, "train")
    path.write_text(json.dumps(content))
    for file in (tmp_path / "train2014").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="none of its 8 annotated images lies below"):
        open_multi_label(tmp_path, "train")


def test_distractors_never_show_the_category_of_the_item(tmp_path: Path) -> None:
    """Over many items: the category is one of the image's, evenly drawn; the three are different and lack it."""
    write_split(tmp_path, [*SHOWN, [COW], [DOG]])  # four images lack each of cat and dog, five a cow
    images, _ = open_multi_label(tmp_path, "train")
    distractors, notes = open_distractors(images, None)
    assert notes == []
    assert distractors.usable_K.all()
    drawn = np.zeros((len(images), 3), dtype=int)
    for epoch in range(30):
        for batch in batches(images, distractors, epoch=epoch):
            assert batch.xe is not None
            assert batch.distractors is not None
            assert batch.category is not None
            assert batch.distractor_rows.tolist() == list(range(len(batch.labels)))
            assert batch.distractors.shape == (len(batch.labels), 3, 3, 16, 16)
            assert batch.labels.dtype == torch.bool
            assert image_of(batch.xe) == batch.indices.tolist()
            for index, category, views in zip(
                batch.indices.tolist(), batch.category.tolist(), batch.distractors, strict=True
            ):
                assert images.present_NK[index, category]
                others = image_of(views)
                assert len(set(others)) == 3
                assert not images.present_NK[others, category].any()
                drawn[index, category] += 1
    assert (drawn > 0).tolist() == images.present_NK.tolist()
    assert drawn[2].min() >= 4  # of 30, 10 expected


def test_an_item_depends_on_its_seed_alone(tmp_path: Path) -> None:
    write_split(tmp_path, SHOWN)
    images, _ = open_multi_label(tmp_path, "train")
    distractors, _ = open_distractors(images, None)
    one, other = batches(images, distractors), batches(images, distractors, workers=1)
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
    elsewhere = torch.cat([batch.category for batch in batches(images, distractors, epoch=1)])
    assert elsewhere.tolist() != torch.cat([batch.category for batch in one]).tolist()


def test_a_category_that_nearly_all_images_show_is_not_explained(tmp_path: Path) -> None:
    """Two images lack a cat: images of nothing else bring their label, and no distractors."""
    write_split(tmp_path, SHOWN)
    images, _ = open_multi_label(tmp_path, "train")
    distractors, notes = open_distractors(images, None)
    assert distractors.usable_K.tolist() == [False, True, True]
    assert notes == [
        "never explained, since fewer than 3 images lack them: 'cat'; 2 images show nothing else and are only "
        "classified"
    ]
    for batch in [batch for epoch in range(8) for batch in batches(images, distractors, epoch=epoch)]:
        assert batch.category is not None
        alone = [i for i, n in enumerate(batch.indices.tolist()) if n in (0, 7)]
        rows = [] if batch.distractor_rows is None else batch.distractor_rows.tolist()
        assert rows == [i for i in range(len(batch.indices)) if i not in alone]
        assert all(batch.category[i] == 0 for i in alone)
        assert all(batch.category[i] > 0 for i in rows)
    write_split(tmp_path, [[CAT, DOG, COW]] * 5)
    with pytest.raises(InputError, match="every category is in all images but 0; grid consistency needs 3"):
        open_distractors(open_multi_label(tmp_path, "train")[0], None)


def test_unreadable_distractors_are_named_and_replaced(tmp_path: Path) -> None:
    write_split(tmp_path, [[CAT], [DOG], [DOG], [DOG], [DOG], [DOG]])
    images, _ = open_multi_label(tmp_path, "train")
    distractors, _ = open_distractors(images, None)
    views = MultiLabelGridViews(images, 16, distractors)
    (tmp_path / "train2014" / "2.png").write_bytes(b"")
    found = [alone(views, 0, seed) for seed in range(20)]
    assert all(sample.distractors is not None for sample in found)
    assert any("2.png" in line for sample in found for line in sample.unreadable)
    for number in (3, 4):
        (tmp_path / "train2014" / f"{number}.png").write_bytes(b"")
    sample = alone(views, 0, 1)
    assert sample.distractors is None
    assert len(sample.unreadable) == 3
    assert sample.category == 0


def test_what_stands_in_for_an_unreadable_image_brings_its_own_category(tmp_path: Path) -> None:
    """The last image, a dog, is gone; the first one stands in for it, a cat."""
    write_split(tmp_path, [[CAT], [DOG], [DOG], [DOG], [DOG], [DOG]])
    images, _ = open_multi_label(tmp_path, "train")
    (tmp_path / "train2014" / "5.png").write_bytes(b"")
    sample = alone(MultiLabelGridViews(images, 16, open_distractors(images, None)[0]), 5, 1)
    assert (sample.used, sample.category, sample.label.tolist()) == (0, 0, [True, False, False])
    assert sample.distractors is not None
    assert set(image_of(sample.distractors.permute(0, 3, 1, 2))) <= {1, 2, 3, 4}
    assert "5.png" in sample.unreadable[0]


def test_a_file_of_negatives_draws_the_same(tmp_path: Path) -> None:
    """The list of the same annotations gives the same distractors, also where it lists more images than there are."""
    path = write_split(tmp_path, [*SHOWN, [COW], [DOG], [COW]])
    (tmp_path / "train2014" / "10.png").unlink()
    images, _ = open_multi_label(tmp_path, "train")
    file = tmp_path / "negatives.npz"
    write_negatives(negatives_from_coco(path)[0], file)
    from_file, notes = open_distractors(images, file)
    assert notes == [f"{file}: 1 of its images are not among the data's"]
    own, _ = open_distractors(images, None)
    for category in range(3):
        draws = [
            [d.draw(category, 3, torch.Generator().manual_seed(seed)) for seed in range(20)]
            for d in (own, from_file)
        ]
        assert draws[0] == draws[1]
        assert not images.present_NK[np.array(draws[0]).ravel(), category].any()


def test_a_file_of_negatives_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, SHOWN)
    images, _ = open_multi_label(tmp_path, "train")
    file = tmp_path / "negatives.npz"
    with pytest.raises(InputError, match=r"negatives\.npz"):
        open_distractors(images, file)
    absent = np.ascontiguousarray(~images.present_NK.T)
    write_negatives(NegativeImages(("cat", "cow", "dog"), images.names, absent), file)
    with pytest.raises(InputError, match="category 2 by ascending id is 'cow', where the data has 'dog'"):
        open_distractors(images, file)
    write_negatives(NegativeImages(images.classes, tuple(f"x{n}" for n in images.names), absent), file)
    with pytest.raises(InputError, match="none of its images"):
        open_distractors(images, file)
    wrong = absent.copy()
    wrong[1, 2] = True
    write_negatives(NegativeImages(images.classes, images.names, wrong), file)
    with pytest.raises(InputError, match=r"says that 2\.png does not contain 'dog', which .* has there"):
        open_distractors(images, file)


def test_held_out_images_are_stretched(tmp_path: Path) -> None:
    write_split(tmp_path, SHOWN)
    halves = np.zeros((30, 60, 3), dtype=np.uint8)
    halves[:, 30:] = 255
    Image.fromarray(halves).save(tmp_path / "train2014" / "0.png")
    images, _ = open_multi_label(tmp_path, "train")
    sample = StretchedViews(images, 10)[(0, 5)]
    assert sample.xe is None
    assert sample.query.shape == (10, 10, 3)
    # Nothing is cropped: all of the left half, and of the right one.
    assert (sample.query[:, :4] == 0).all()
    assert (sample.query[:, 6:] == 255).all()
    assert sample.label.tolist() == [True, False, False]
