"""Images in shards are the images of the folder: bytes, labels, and what happens when some are not there."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from cgc.data.decode import UnreadableImage
from cgc.data.folders import ImageList
from cgc.data.shards import images as shards_module
from cgc.data.shards.folders import (
    ShardOptions,
    is_shards,
    open_held_out,
    open_images,
    open_shards,
    open_stream,
)
from cgc.data.shards.images import ShardList
from cgc.data.shards.index import INDEX, read_index
from cgc.data.shares import ShareOfBatches
from cgc.data.unlabelled import open_unlabelled, unlabelled_order
from cgc.data.views import EvalViews, TrainViews, make_loader
from cgc.errors import InputError
from tests.data.images import save_photograph
from tests.data.shards.fixture import plain_tar, shards_of, write_shards

OPTIONS = ShardOptions()


def contents(images: ImageList) -> list[tuple[int, bytes]]:
    return sorted((int(images.labels[i]), images.read(i)) for i in range(len(images)))


@pytest.fixture
def made(tmp_path: Path) -> tuple[ImageList, Path]:
    """12 images in 4 shards."""
    return shards_of(tmp_path)


def test_every_byte_and_label_comes_back(made: tuple[ImageList, Path]) -> None:
    images, folder = made
    found = open_images(folder.parent, "train", OPTIONS)
    assert isinstance(found, ShardList)
    assert found.classes == images.classes
    by_name = {images.paths[i]: (int(images.labels[i]), images.read(i)) for i in range(len(images))}
    assert {found.paths[i]: (int(found.labels[i]), found.read(i)) for i in range(len(found))} == by_name
    assert [shard.samples for shard in found.files.shards] == [3, 3, 3, 3]
    assert (
        len({int(label) for label in found.labels[:3]}) == 2 or len({int(x) for x in found.labels[3:6]}) == 2
    )
    assert found.path(0) == folder / "train-000000.tar" / found.paths[0]


def test_unequal_shards_are_as_good(tmp_path: Path) -> None:
    images, _ = shards_of(tmp_path)
    folder = write_shards(tmp_path / "five", images, 5)
    found = open_shards(folder, OPTIONS)
    assert sorted({shard.samples for shard in found.files.shards}) == [2, 3]
    assert contents(found) == contents(images)


def test_names_may_hold_dots_and_clash(tmp_path: Path) -> None:
    root = tmp_path / "data"
    names = ["a.b.png", "a.png", "a.bmp", "a%2Eb.png", "x.JPEG", "x.jpg", "y.JPG", "z\nz.png"]
    for k, name in enumerate(names):
        save_photograph(root / "d.o.t" / name, seed=k)
    images = open_unlabelled(root)
    found = open_stream(write_shards(tmp_path / "out", images, 2), OPTIONS)
    assert contents(found) == contents(images)
    members = read_index(tmp_path / "out").names
    assert all(Path(members[i]).name.count(".") == 1 for i in range(len(names)))
    expected = {f"d.o.t/{name}" for name in [*names[:-2], "y.jpg", "z%0Az.png"]}
    assert {found.paths[i] for i in range(len(found))} == expected
    assert found.classes == ()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_do_not_depend_on_workers_or_a_stop(made: tuple[ImageList, Path], workers: int) -> None:
    views = TrainViews(open_shards(made[1], ShardOptions(window=2)), 16)

    def batches(workers: int, start: int) -> list[tuple[list[int], torch.Tensor]]:
        order = views.images.order(seed=3)
        order.set_epoch(1, start=start)
        loader = make_loader(views, order, batch_size=4, workers=workers)
        return [(batch.indices.tolist(), batch.query) for batch in loader]

    expected, found = batches(0, 0), batches(workers, 4)
    assert [indices for indices, _ in found] == [indices for indices, _ in expected[1:]]
    assert all(torch.equal(one[1], other[1]) for one, other in zip(found, expected[1:], strict=True))


@pytest.mark.parametrize("size", [2, 4])
def test_processes_read_their_parts(made: tuple[ImageList, Path], size: int) -> None:
    """Together each sample once, batch by batch the one order."""
    images = open_shards(made[1], ShardOptions(window=2))
    whole = list(images.order(seed=5))
    shares = [iter(ShareOfBatches(images.order(seed=5), 4, rank, size)) for rank in range(size)]
    found = [
        item for _ in range(3) for share in shares for _, item in zip(range(4 // size), share, strict=False)
    ]
    assert found == whole


def test_the_stream_over_shards_has_no_labels(made: tuple[ImageList, Path]) -> None:
    images = open_stream(made[1], ShardOptions(window=2), batch_size=12)
    assert (set(images.labels.tolist()), images.classes) == ({-1}, ())
    stream = unlabelled_order(images, seed=1)
    stream.set_window(7, 30)
    assert len(list(stream)) == 30
    with pytest.raises(InputError, match="fewer than a batch of 13"):
        open_stream(made[1], OPTIONS, batch_size=13)


def test_files_stay_open_in_bounded_number_and_are_not_pickled(
    made: tuple[ImageList, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "_OPEN_FILES", 2)
    images = open_shards(made[1], OPTIONS)
    expected = contents(images)
    assert len(images.files._open) == 2
    assert contents(pickle.loads(pickle.dumps(images))) == expected


def test_a_missing_shard_is_named_and_its_images_left_out(made: tuple[ImageList, Path]) -> None:
    (made[1] / "train-000001.tar").unlink()
    images = open_shards(made[1], OPTIONS)
    (note,) = images.notes
    assert "train-000001.tar: no such shard: its 3 images are left out" in note
    assert len(contents(images)) == 9
    assert sorted(index for index, _ in images.order()) == list(range(9))
    with pytest.raises(InputError, match=r"train-000001\.tar.*--strict"):
        open_shards(made[1], ShardOptions(strict=True))


def test_all_shards_missing_is_an_error(made: tuple[ImageList, Path]) -> None:
    for path in made[1].glob("*.tar"):
        path.unlink()
    with pytest.raises(InputError, match="none of its 12 images"):
        open_shards(made[1], OPTIONS)


def test_a_truncated_shard_keeps_what_is_there(made: tuple[ImageList, Path]) -> None:
    whole = open_shards(made[1], OPTIONS)
    path = made[1] / "train-000002.tar"
    path.write_bytes(path.read_bytes()[: int(whole.offsets[7]) + int(whole.sizes[7]) - 1])
    images = open_shards(made[1], OPTIONS)
    (note,) = images.notes
    assert "truncated: 2 of its 3 images are left out" in note
    assert contents(images) == sorted(
        (int(whole.labels[i]), whole.read(i)) for i in range(12) if i not in (7, 8)
    )
    with pytest.raises(UnreadableImage, match="truncated") as error:  # cut off while it was in use
        whole.read(7)
    assert error.value.path == made[1] / "train-000002.tar" / whole.paths[7]


def test_another_file_under_a_shard_s_name(made: tuple[ImageList, Path]) -> None:
    """Exchanged shards of the same size are noticed with every image, others when the list is opened."""
    one, other = made[1] / "train-000000.tar", made[1] / "train-000001.tar"
    images = open_shards(made[1], OPTIONS)
    first, second = one.read_bytes(), other.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    with pytest.raises(UnreadableImage, match="CRC-32"):
        images.read(0)
    one.write_bytes(first + b"\0")
    assert "not the shard that was indexed" in open_shards(made[1], OPTIONS).notes[0]


def test_a_lost_shard_costs_one_line_and_not_the_run(tmp_path: Path) -> None:
    """More images in a row than may be unreadable: the replacements come from other shards."""
    for k in range(120):
        save_photograph(tmp_path / "data" / f"{k}.png", 12, 12, seed=k)
    listed = open_unlabelled(tmp_path / "data")
    images = ImageList(listed.paths, np.arange(120) % 2, ("ant", "bee"), listed.root)
    folder = write_shards(tmp_path / "out", images, 3)
    found = open_shards(folder, OPTIONS)
    (folder / "train-000001.tar").unlink()
    views = EvalViews(found, 16)
    samples = views.__getitems__([(index, 0) for index in range(40, 80)])
    assert not isinstance(samples, InputError)
    lines = {line for sample in samples for line in sample.unreadable}
    (line,) = lines
    assert "train-000001.tar" in line
    assert "its 40 images" in line
    assert {int(found.shard_of[sample.used]) for sample in samples} == {2}


def test_replacements_are_other_images(made: tuple[ImageList, Path]) -> None:
    images = open_shards(made[1], OPTIONS)
    for index in range(12):
        assert images.replacement(index, 0) == index
        assert images.replacement(index, 1) == (index + 1) % 12
        others = [images.replacement(index, attempt) // 3 for attempt in (2, 3, 4)]
        assert others == [(index // 3 + step) % 4 for step in (1, 2, 3)]


def test_subsets_keep_to_their_shards(made: tuple[ImageList, Path]) -> None:
    images = open_shards(made[1], OPTIONS)
    part = images.subset(np.array([1, 4, 5, 11]))
    assert [part.read(i) for i in range(4)] == [images.read(i) for i in (1, 4, 5, 11)]
    assert part.replacement(0, 2) == 1
    assert part.replacement(3, 2) == 0
    with pytest.raises(ValueError, match="ascending"):
        images.subset(np.array([4, 1]))


def test_classes_follow_the_training_split(made: tuple[ImageList, Path]) -> None:
    plain = open_shards(made[1], OPTIONS)
    turned = open_held_out(made[1], OPTIONS, ("bee", "ant"))
    assert turned.classes == ("bee", "ant")
    assert (turned.labels == 1 - plain.labels).all()
    with pytest.raises(InputError, match="differ from the training classes"):
        open_held_out(made[1], OPTIONS, ("ant", "cow"))
    with pytest.raises(InputError, match="2 classes, but the dataset"):
        open_images(made[1].parent, "train", OPTIONS, dataset="cub")


def test_shards_without_an_index_are_read(tmp_path: Path) -> None:
    picture = save_photograph(tmp_path / "a.png").read_bytes()
    for k in range(3):
        members = [(f"{k}{n}.{s}", d) for n in range(3) for s, d in (("png", picture), ("cls", b"%d" % n))]
        plain_tar(tmp_path / "train" / f"{k}.tar", members)
    images = open_images(tmp_path, "train", OPTIONS)
    assert isinstance(images, ShardList)
    assert (images.classes, images.notes) == (("0", "1", "2"), ())
    assert contents(images) == [(n, picture) for n in range(3) for _ in range(3)]
    held_out = open_shards(tmp_path / "train", OPTIONS, classes=("ant", "bee", "cow"))
    assert held_out.classes == ("ant", "bee", "cow")
    bad = tmp_path / "train" / "3.tar"
    plain_tar(
        bad,
        [
            ("../../x.png", picture),
            ("a.png", picture),
            ("a.cls", b"one"),
            ("b.png", picture),
            ("b.cls", b"1"),
        ],
    )
    bad.write_bytes(bad.read_bytes()[:-9000])
    found = open_shards(tmp_path / "train", OPTIONS)
    assert len(found) == 9
    assert [
        any(word in note for note in found.notes) for word in ("../../x.png", "no number", "truncated")
    ] == [True] * 3
    with pytest.raises(InputError, match="--strict"):
        open_shards(tmp_path / "train", ShardOptions(strict=True))


def test_what_is_taken_for_shards(tmp_path: Path, made: tuple[ImageList, Path]) -> None:
    assert is_shards(made[1])
    assert is_shards("http://host/x")
    assert is_shards(Path("https://host/x"))
    assert not is_shards(tmp_path / "data" / "train")
    plain_tar(
        tmp_path / "data" / "train" / "ant.tar", [("a.png", b"1")]
    )  # what the folders were unpacked from
    assert not is_shards(tmp_path / "data" / "train")
    assert not isinstance(open_images(tmp_path / "data", "train", OPTIONS), ShardList)


@pytest.mark.parametrize("members", [[], [("a.txt", b"x")]])
def test_shards_without_images(tmp_path: Path, members: list[tuple[str, bytes]]) -> None:
    plain_tar(tmp_path / "a.tar", members)
    with pytest.raises(InputError, match="no images in its 1 shards"):
        open_shards(tmp_path, OPTIONS)


def test_unlabelled_shards_are_no_training_split(tmp_path: Path) -> None:
    plain_tar(tmp_path / "a.tar", [("a.png", b"1"), ("b.png", b"1")])
    with pytest.raises(InputError, match="no classes"):
        open_shards(tmp_path, OPTIONS)
    assert len(open_shards(tmp_path, OPTIONS, labelled=False)) == 2
    plain_tar(tmp_path / "b.tar", [("c.png", b"1"), ("c.cls", b"0")])
    with pytest.raises(InputError, match="2 of 3 images have no class"):
        open_shards(tmp_path, OPTIONS)


def test_webdataset_reads_our_shards_and_we_read_its(made: tuple[ImageList, Path], tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(made[1].glob("*.tar"))]
    samples = list(wds.WebDataset(urls, shardshuffle=False, empty_check=False).to_tuple("png", "cls"))
    assert sorted((int(label), bytes(data)) for data, label in samples) == contents(made[0])
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    with wds.ShardWriter(str(theirs / "t-%04d.tar"), maxcount=5, verbose=0) as writer:
        for k, (data, label) in enumerate(samples):
            writer.write({"__key__": f"x/{k:04d}", "png": data, "cls": int(label)})
    assert not (theirs / INDEX).exists()
    assert contents(open_shards(theirs, OPTIONS)) == contents(made[0])
