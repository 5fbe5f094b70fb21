from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgc.data.folders import ImageList, PathTable, open_split
from cgc.data.label_subset import draw_subset, read_list, share_of, take, write_links, write_list
from cgc.errors import InputError, RunError


def listed(counts: list[int], root: Path = Path("data/train")) -> ImageList:
    """Classes a, b, c, … with so many images; nothing is on the disk."""
    classes = tuple("abcdefgh"[: len(counts)])
    paths = [f"{name}/{k}.png" for name, count in zip(classes, counts, strict=True) for k in range(count)]
    return ImageList(PathTable(paths), np.repeat(np.arange(len(counts)), counts), classes, root)


def paths_of(images: ImageList) -> list[str]:
    return [images.paths[index] for index in range(len(images))]


def chosen(images: ImageList, indices: np.ndarray) -> list[str]:
    return paths_of(take(images, indices))


@pytest.mark.parametrize(
    ("count", "percent", "share"),
    [
        (1300, "1", 13),
        (732, "1", 7),
        (749, "1", 7),
        (750, "1", 8),  # 7.5
        (50, "1", 1),  # 0.5
        (49, "1", 1),  # at least one
        (1, "0.1", 1),
        (1500, "0.1", 2),  # 1.5
        (1150, "0.1", 1),
        (15, "10", 2),  # 1.5
        (25, "10", 3),  # 2.5: up, not to even
        (29, "50", 15),
        (7, "100", 7),
    ],
)
def test_shares_are_rounded_to_the_nearest_halves_up(count: int, percent: str, share: int) -> None:
    assert share_of(count, Fraction(percent)) == share


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
    st.fractions(Fraction(1, 10), 100),
    st.integers(0, 5),
)
def test_a_draw_takes_the_share_of_every_class(counts: list[int], percent: Fraction, seed: int) -> None:
    images = listed(counts)
    drawn = draw_subset(images, percent, seed)
    assert np.array_equal(np.unique(drawn), drawn)
    found = np.bincount(images.labels[drawn], minlength=len(counts)).tolist()
    assert found == [share_of(count, percent) for count in counts]
    assert np.array_equal(draw_subset(images, percent, seed), drawn)


def test_more_percent_are_more_images_and_other_seeds_other_ones() -> None:
    images = listed([200, 100, 30])
    few, more = (set(draw_subset(images, Fraction(p), 3).tolist()) for p in (5, 20))
    assert few < more
    assert set(draw_subset(images, Fraction(20), 4).tolist()) != more
    first, second = (chosen(images, draw_subset(images, Fraction(20), 3)) for _ in range(2))
    assert first == second


def test_a_class_is_drawn_without_regard_to_the_others() -> None:
    few, many = listed([40, 20, 40]), listed([40, 90, 40])
    for name in "ac":
        drawn = [
            [path for path in chosen(images, draw_subset(images, Fraction(10))) if path.startswith(name)]
            for images in (few, many)
        ]
        assert drawn[0] == drawn[1]
    same = chosen(few, draw_subset(few, Fraction(10)))
    assert [path[2:] for path in same if path[0] == "a"] != [path[2:] for path in same if path[0] == "c"]


def test_every_image_is_as_likely_as_the_next() -> None:
    images = listed([20])
    drawn = np.concatenate([draw_subset(images, Fraction(25), seed) for seed in range(800)])
    counts = np.bincount(drawn, minlength=20)
    assert counts.sum() == 4000
    assert abs(counts - 200).max() < 5 * (800 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("percent", [0, -1, 101])
def test_percentages_that_cannot_be(percent: int) -> None:
    with pytest.raises(ValueError, match=f"percent must lie above 0 and up to 100, got {percent}"):
        draw_subset(listed([3]), Fraction(percent))


def test_taking_keeps_the_classes(tmp_path: Path) -> None:
    images = listed([2, 2, 2], tmp_path)
    some = take(images, [1, 4])
    assert paths_of(some) == ["a/1.png", "c/0.png"]
    assert some.labels.tolist() == [0, 2]
    assert some.classes == ("a", "b", "c")
    assert some.path(1) == tmp_path / "c" / "0.png"


IMAGENET = ("n01440764/n01440764_18.JPEG", "n01440764/n01440764_36.JPEG", "n01443537/n01443537_2.JPEG")
TINY = ("n01443537/images/n01443537_0.JPEG", "n01443537/images/n01443537_1.JPEG")


def tree(root: Path, *names: str) -> ImageList:
    for name in names:
        path = root / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return open_split(root, "train")


def list_file(root: Path, *lines: str) -> Path:
    path = root / "list.txt"
    path.write_text("\n".join(lines))
    return path


def read(root: Path, images: ImageList, *lines: str, skip_missing: bool = False) -> list[str]:
    indices, _ = read_list(list_file(root, *lines), images, skip_missing=skip_missing)
    return chosen(images, indices)


@pytest.mark.parametrize(
    "lines",
    [
        ("n01443537_2.JPEG", "n01440764_36.JPEG"),  # SimCLR's
        ("n01440764/n01440764_36.JPEG", "n01443537/n01443537_2.JPEG", ""),
        ("./train/n01440764/n01440764_36.JPEG\r", "train/n01443537/n01443537_2.JPEG\r"),
        ("n01443537_2.JPEG", "n01440764_36.JPEG", "n01440764_36.JPEG", "n01440764/n01440764_36.JPEG"),
    ],
)
def test_lists_name_images_in_any_of_the_usual_ways(tmp_path: Path, lines: tuple[str, ...]) -> None:
    assert read(tmp_path, tree(tmp_path, *IMAGENET), *lines) == [IMAGENET[1], IMAGENET[2]]


def test_lists_of_tiny_imagenet(tmp_path: Path) -> None:
    images = tree(tmp_path, *TINY, "n02/images/x.JPEG")
    for line in ("n01443537_1.JPEG", TINY[1], "n01443537/n01443537_1.JPEG"):
        assert read(tmp_path, images, line, "x.JPEG") == [TINY[1], "n02/images/x.JPEG"]


def test_the_class_comes_from_the_name_or_else_from_where_the_image_is(tmp_path: Path) -> None:
    images = tree(tmp_path, "a/a_1.png", "b/a_1.png", "b/b_1_2.png", "b_1/b_1_2.png", "c/loose.png")
    everything = ("b/b_1_2.png", "a/a_1.png", "b_1_2.png", "c/loose.png")
    assert read(tmp_path, images, *everything) == [
        "a/a_1.png",
        "b/b_1_2.png",
        "b_1/b_1_2.png",
        "c/loose.png",
    ]
    with pytest.raises(InputError, match=r"list\.txt: 1 of 2 images .*: a/loose\.png"):
        read(
            tmp_path, images, "a/loose.png", "c/loose.png"
        )  # never from another class than the one that is written


def test_a_class_called_train(tmp_path: Path) -> None:
    images = tree(tmp_path, "train/1.png", "other/1.png")
    assert read(tmp_path, images, "train/1.png", "train/other/1.png") == ["other/1.png", "train/1.png"]


def test_a_name_that_several_images_have_is_refused(tmp_path: Path) -> None:
    images = tree(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(InputError, match=r"list\.txt: 1\.png fits several images: a/1\.png and b/1\.png"):
        read(tmp_path, images, "1.png")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    images = tree(tmp_path, *IMAGENET)
    lines = ("n01443537_2.JPEG", "n01440764_36.JPEG", *(f"n09999999_{k}.JPEG" for k in range(5)))
    with pytest.raises(InputError) as raised:
        read(tmp_path, images, *lines)
    assert str(raised.value) == (
        f"{tmp_path}/list.txt: 5 of 7 images are not in {tmp_path}/train: n09999999_0.JPEG, n09999999_1.JPEG, "
        "n09999999_2.JPEG, …; --skip-missing leaves them out"
    )
    assert read(tmp_path, images, *lines, skip_missing=True) == [IMAGENET[1], IMAGENET[2]]
    indices, missing = read_list(list_file(tmp_path, *lines), images, skip_missing=True)
    assert indices.tolist() == [1, 2]
    assert missing == list(lines[2:])


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image of 1 classes of .*train: n01443537$"):
        read(tmp_path, tree(tmp_path, *IMAGENET), "n01440764_36.JPEG", "n01440764_18.JPEG")


def test_unusable_lists(tmp_path: Path) -> None:
    images = tree(tmp_path, *IMAGENET)
    with pytest.raises(InputError, match=r"list\.txt: names no images"):
        read(tmp_path, images, "", "  ")
    with pytest.raises(InputError, match=r"nothing\.txt: No such file"):
        read_list(tmp_path / "nothing.txt", images)
    with pytest.raises(InputError, match="Is a directory"):
        read_list(tmp_path, images)


def test_a_written_list_is_read_back(tmp_path: Path) -> None:
    odd = os.fsdecode(b"b/\xff caf\xc3\xa9.png")
    images = tree(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/deep/1.png", odd)
    subset = take(images, [0, 3, 4])
    write_list(tmp_path / "some.txt", subset)
    indices, missing = read_list(tmp_path / "some.txt", images)
    assert (
        sorted(chosen(images, indices))
        == sorted(paths_of(subset))
        == sorted(["a/1.png", "b/deep/1.png", odd])
    )
    assert missing == []


def links(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): os.readlink(p) for p in folder.rglob("*") if p.is_symlink()}


def test_links_are_relative_and_lead_to_the_originals(tmp_path: Path) -> None:
    images = tree(tmp_path / "data", *IMAGENET)
    (tmp_path / "data" / "val").mkdir()
    out = tmp_path / "few"
    write_links(out, take(images, [0, 2]), {"val": tmp_path / "data" / "val", "unlabeled": images.root})
    assert links(out) == {
        "train/n01440764/n01440764_18.JPEG": "../../../data/train/n01440764/n01440764_18.JPEG",
        "train/n01443537/n01443537_2.JPEG": "../../../data/train/n01443537/n01443537_2.JPEG",
        "val": "../data/val",
        "unlabeled": "../data/train",
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "few"]  # nothing else is left
    tmp_path.rename(tmp_path.with_name("moved"))
    found = open_split(tmp_path.with_name("moved") / "few", "train")
    assert paths_of(found) == [IMAGENET[0], IMAGENET[2]]
    assert [found.path(k).read_text() for k in range(2)] == [IMAGENET[0], IMAGENET[2]]
    assert found.classes == images.classes


def test_links_bring_tiny_imagenets_boxes(tmp_path: Path) -> None:
    images = tree(tmp_path / "data", "n1/images/n1_0.JPEG", "n1/images/n1_1.JPEG", "n2/images/n2_0.JPEG")
    for name in images.classes:
        (images.root / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t1\t2\t3\t4\n")
    write_links(tmp_path / "few", take(images, [0]), {})
    boxes = {name: target for name, target in links(tmp_path / "few").items() if name.endswith(".txt")}
    assert boxes == {"train/n1/n1_boxes.txt": "../../../data/train/n1/n1_boxes.txt"}  # n2 is not there
    assert (tmp_path / "few" / "train" / "n1" / "n1_boxes.txt").read_text().startswith("n1_0.JPEG")


def test_links_hold_where_folders_on_the_way_are_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`..` leaves the folder that a link leads to, not the one that it stands in."""
    tree(tmp_path / "disk" / "deep" / "data", *TINY, "n02/images/x.JPEG")
    (tmp_path / "data").symlink_to(tmp_path / "disk" / "deep" / "data")
    (tmp_path / "disk" / "scratch" / "mine").mkdir(parents=True)
    (tmp_path / "here").symlink_to(tmp_path / "disk" / "scratch" / "mine")
    monkeypatch.chdir(tmp_path)
    images = open_split("data", "train")
    write_links(Path("here/few"), take(images, [1, 2]), {"unlabeled": images.root})
    assert {os.path.realpath(path) for path in (tmp_path / "here/few/train").rglob("*.JPEG")} == {
        str(tmp_path / "disk/deep/data/train" / name) for name in (TINY[1], "n02/images/x.JPEG")
    }
    assert paths_of(open_split("here/few", "train")) == [TINY[1], "n02/images/x.JPEG"]
    assert (tmp_path / "here/few/unlabeled").resolve() == tmp_path / "disk/deep/data/train"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    images = tree(tmp_path / "data", *IMAGENET)
    (tmp_path / "there").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("there", "dangling"):
        with pytest.raises(InputError, match=f"{name} is there already"):
            write_list(tmp_path / name, images)
        with pytest.raises(InputError, match=f"{name} is there already"):
            write_links(tmp_path / name, images, {})
    with pytest.raises(InputError, match=r"no folder .*/missing to write it into"):
        write_list(tmp_path / "missing" / "list.txt", images)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tree(tmp_path / "data", *IMAGENET)
    made: list[Path] = []

    def refuse(path: Path, *_: object, **__: object) -> None:
        made.append(path)
        if len(made) == 3:
            raise OSError(28, "No space left on device")
        os.symlink("x", path)

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(RunError, match="few cannot be written: No space left on device"):
        write_links(tmp_path / "few", images, {})
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert sum(1 for _ in (tmp_path / "data").rglob("*.JPEG")) == 3  # the originals are not what was removed
