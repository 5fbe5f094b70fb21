from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgc.data.folders import ImageList
from cgc.data.unlabelled import NO_LABEL, StreamSampler, open_unlabelled
from cgc.data.views import SeededSampler
from cgc.errors import InputError


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def names(images: ImageList) -> list[str]:
    return [images.path(index).relative_to(images.root).as_posix() for index in range(len(images))]


def test_images_at_any_depth_in_order(tmp_path: Path) -> None:
    for name in (
        "b.JPG",
        "a.png",
        "z/2.png",
        "z/10.jpeg",
        "y/deep/er/1.tiff",
        "notes.txt",
        ".hidden/1.png",
        "z/._2.png",
    ):
        touch(tmp_path / name)
    images = open_unlabelled(tmp_path)
    assert names(images) == ["a.png", "b.JPG", "y/deep/er/1.tiff", "z/10.jpeg", "z/2.png"]
    assert images.labels.tolist() == [NO_LABEL] * 5
    assert images.classes == ()


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "1.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(root)
    (root / "dangling.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(root)
    for start in (root, tmp_path / "link"):
        assert names(open_unlabelled(start)) == ["dangling.png", "folder/1.png"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.touch(), "not a folder"),
        (lambda root: touch(root / "x" / "notes.txt"), "no images in it"),
        (lambda root: [touch(root / f"{k}.png") for k in range(3)], "3 images, fewer than a batch of 4"),
    ],
)
def test_unusable_folders_are_named(tmp_path: Path, make: object, said: str) -> None:
    root = tmp_path / "unlabelled"
    make(root)  # type: ignore[operator]
    with pytest.raises(InputError, match=f"{root}: {said}"):
        open_unlabelled(root, batch_size=4)


def passes(length: int, seed: int, count: int) -> list[tuple[int, int]]:
    """The stream written out: one SeededSampler per pass."""
    items: list[tuple[int, int]] = []
    for epoch in range(count):
        sampler = SeededSampler(length, seed=seed)
        sampler.set_epoch(epoch)
        items += sampler
    return items


@given(st.integers(1, 12), st.integers(0, 60), st.integers(0, 40), st.integers(0, 3))
def test_a_window_is_a_part_of_the_passes(length: int, position: int, items: int, seed: int) -> None:
    sampler = StreamSampler(length, seed=seed)
    sampler.set_window(position, items)
    expected = passes(length, seed, (position + items) // length + 1)[position : position + items]
    assert list(sampler) == expected
    assert list(sampler) == expected  # asking again is no step forward
    assert len(sampler) == items


def test_no_two_passes_have_the_same_order() -> None:
    sampler = StreamSampler(50, seed=1)
    sampler.set_window(0, 50 * 20)
    items = list(sampler)
    orders = [tuple(index for index, _ in items[50 * p : 50 * (p + 1)]) for p in range(20)]
    assert len(set(orders)) == 20
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(50))}
    assert len({seed for _, seed in items}) == 1000


def test_an_epoch_of_the_stream_is_one_pass() -> None:
    sampler = StreamSampler(7, seed=2)
    assert list(sampler) == passes(7, 2, 1)
    sampler.set_epoch(2, start=3)
    assert list(sampler) == passes(7, 2, 3)[17:]
    assert len(sampler) == 4


@pytest.mark.parametrize(("length", "position", "items"), [(5, -1, 3), (5, 0, -1), (0, 0, 0)])
def test_windows_that_cannot_be(length: int, position: int, items: int) -> None:
    with pytest.raises(ValueError, match=f"no {items} items from {position} in a stream of {length} images"):
        StreamSampler(length).set_window(position, items)
