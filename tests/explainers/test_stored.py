"""Maps in files: what is written comes back, what cannot be scored says why, and nothing else escapes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.errors import InputError
from cgc.explainers.stored import MapProblem, MapWriter, StoredMaps

SIZE = (60, 90)  # of the images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("dog/1.jpg", "dog/2.jpg", "cat/1.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    return tmp_path / "images"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "maps").mkdir()
    return tmp_path / "maps"


def ramp(h: int = 4, w: int = 6) -> torch.Tensor:
    return torch.arange(h * w, dtype=torch.float32).view(h, w) / 7


def problem(
    folder: Path, root: Path, name: str = "dog/1.jpg", class_name: str = "dog", **options: Any
) -> MapProblem:
    with pytest.raises(MapProblem) as caught:
        StoredMaps(folder, root, **options).load(root / name, class_name, SIZE)
    return caught.value


# --- written and read


def test_what_is_written_comes_back(root: Path, folder: Path) -> None:
    writer = MapWriter(folder, root)
    names = ["dog", "file", "a/b", "../c", "d.npy", "", "naïve \udcff", "名"]
    maps = {name: ramp() + i for i, name in enumerate(names)}
    assert writer.write(root / "dog/1.jpg", maps) == folder / "dog/1.npz"
    writer.write(str(root / "cat/1.jpg"), {"cat": ramp(1, 5).half()})
    stored = StoredMaps(folder, root)
    for name, expected in maps.items():
        found = stored.load(root / "dog/1.jpg", name, SIZE)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
    assert torch.equal(stored.load(root / "cat/1.jpg", "cat", SIZE), ramp(1, 5).half().float())
    assert sorted(each.name for each in folder.rglob("*") if each.is_file()) == ["1.npz", "1.npz"]
    assert set(np.load(folder / "dog/1.npz")) >= {"dog", "file", "a/b"}  # NumPy reads them too
    # Written again: replaced, and the same bytes for the same maps.
    before = (folder / "dog/1.npz").read_bytes()
    writer.write(root / "dog/1.jpg", maps)
    assert (folder / "dog/1.npz").read_bytes() == before


def test_images_that_differ_in_their_suffix(root: Path, folder: Path) -> None:
    (root / "dog/1.png").touch()
    (root / "dog/2.xml").touch()
    writer = MapWriter(folder, root)
    paths = [
        writer.write(root / name, {"dog": ramp() + i}) for i, name in enumerate(("dog/1.jpg", "dog/1.png"))
    ]
    assert [path.name for path in paths] == ["1.jpg.npz", "1.png.npz"]
    assert writer.write(root / "dog/2.jpg", {"dog": ramp()}).name == "2.npz"
    stored = StoredMaps(folder, root)
    assert torch.equal(stored.load(root / "dog/1.jpg", "dog", SIZE), ramp())
    assert torch.equal(stored.load(root / "dog/1.png", "dog", SIZE), ramp() + 1)
    paths[1].rename(folder / "dog/1.npz")  # whose is it?
    assert problem(folder, root, "dog/1.png").reason == "no map"


def test_an_unfinished_file_does_not_count(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="disk full"):
        MapWriter(folder, root).write(root / "dog/1.jpg", {"dog": ramp()})
    assert not [each for each in folder.rglob("*") if each.is_file()]


@pytest.mark.parametrize("place", ["dog/1.jpg", "dog/1", "1.jpg", "1"])
@pytest.mark.parametrize("suffix", [".npz", ".npy", ".png", ".tif", ".tiff"])
def test_where_maps_are_looked_for(root: Path, folder: Path, place: str, suffix: str) -> None:
    path = folder / (place + suffix)
    path.parent.mkdir(exist_ok=True)
    values = np.array([[0, 51], [102, 255]], dtype=np.uint8)
    if suffix == ".npz":
        np.savez(path, anything=values / 255)
    elif suffix == ".npy":
        np.save(path, values / 255)
    else:
        Image.fromarray(values).save(path)
    found = StoredMaps(folder, root).load(root / "dog/1.jpg", "dog", SIZE)
    torch.testing.assert_close(found, torch.tensor([[0, 0.2], [0.4, 1.0]]))


def test_the_nearest_name_wins(root: Path, folder: Path) -> None:
    (folder / "dog").mkdir()
    for i, name in enumerate(("1.npy", "1.jpg.npy", "dog/1.npy", "dog/1.jpg.npy")):
        np.save(folder / name, ramp().numpy() + i)
        assert torch.equal(StoredMaps(folder, root).load(root / "dog/1.jpg", "dog", SIZE), ramp() + i)
    outside = root.parent / "1.jpg"  # an image elsewhere has its bare name only
    assert torch.equal(StoredMaps(folder, root).load(outside, "dog", SIZE), ramp() + 1)


def test_maps_beside_the_images(root: Path) -> None:
    Image.fromarray(np.full((4, 6), 255, np.uint8)).save(root / "dog/3.png")
    assert problem(root, root, "dog/3.png").reason == "no map"  # an image is no map of itself
    Image.fromarray(np.full((4, 6), 255, np.uint8)).save(root / "dog/1.png")
    assert torch.equal(StoredMaps(root, root).load(root / "dog/1.jpg", "dog", SIZE), torch.ones(4, 6))


def test_sixteen_bits_and_numbers_of_other_types(root: Path, folder: Path) -> None:
    stored = StoredMaps(folder, root)
    values = np.array([[0, 13107], [26214, 65535]], dtype=np.uint16)
    for suffix in (".png", ".tiff"):
        Image.fromarray(values).save(folder / f"1{suffix}")
        found = stored.load(root / "dog/1.jpg", "dog", SIZE)
        torch.testing.assert_close(found, torch.tensor([[0, 0.2], [0.4, 1.0]]))
        (folder / f"1{suffix}").unlink()
    for dtype in ("?", "u1", "i8", ">f4", "<f8", "f2"):
        np.save(folder / "1.npy", np.asfortranarray(np.array([[0, 1, 1], [1, 0, 0]], dtype=dtype)))
        expected = torch.tensor([[0.0, 1, 1], [1, 0, 0]])
        assert torch.equal(stored.load(root / "dog/1.jpg", "dog", SIZE), expected)
    np.save(folder / "1.npy", ramp().numpy()[None, None])
    assert torch.equal(stored.load(root / "dog/1.jpg", "dog", SIZE), ramp())


# --- what cannot be scored


@pytest.mark.parametrize(
    ("size", "covers"),
    [
        ((60, 90), True),
        ((64, 64), True),  # a grid
        ((64, 65), False),
        ((7, 64), True),
        ((120, 180), True),
        ((200, 300), True),
        ((196, 300), True),  # 2 % off
        ((195, 300), True),  # 200 rows would be right; 2 % of them and a pixel are 5
        ((194, 300), False),
        ((224, 224), False),
        ((300, 200), False),
    ],
)
def test_a_map_covers_its_image(root: Path, folder: Path, size: tuple[int, int], covers: bool) -> None:
    np.save(folder / "1.npy", np.ones(size))
    if covers:
        assert StoredMaps(folder, root).load(root / "dog/1.jpg", "dog", SIZE).shape == size
    else:
        found = problem(folder, root)
        assert found.reason == "map of another size"
        assert f"{size[0]}x{size[1]} for an image of 60x90" in found.what
    assert StoredMaps(folder, root, stretch=True).load(root / "dog/1.jpg", "dog", SIZE).shape == size


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[1, np.nan]]), "map not finite"),
        (np.array([[1, np.inf]]), "map not finite"),
        (np.array([[1e300, 1]]), "map not finite"),
        (np.array([[1, -1e-6]]), "negative map"),
        (np.ones(5), "unreadable map"),
        (np.ones((2, 3, 4)), "unreadable map"),
        (np.array(1.0), "unreadable map"),
        (np.ones((0, 4)), "unreadable map"),
        (np.ones((2, 2), complex), "unreadable map"),
        (np.array([["a", "b"]]), "unreadable map"),
        (np.zeros((2, 2), [("a", "f4")]), "unreadable map"),
        (np.array([[print, 1]], dtype=object), "unreadable map"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), "unreadable map"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_are_no_maps(root: Path, folder: Path, values: Any, reason: str, suffix: str) -> None:
    path = folder / f"1{suffix}"
    if suffix == ".npy":
        np.save(path, values)
    else:
        np.savez(path, dog=values)
    found = problem(folder, root)
    assert found.reason == reason
    assert str(path) in found.what
    assert "\n" not in str(found)


def test_no_map(root: Path, folder: Path) -> None:
    assert problem(folder, root).reason == "no map"
    np.savez(folder / "1.npz", wolf=ramp().numpy(), cat=ramp().numpy())
    found = problem(folder, root)
    assert found.reason == "no map"
    assert "'dog'" in found.what
    again = pickle.loads(pickle.dumps(found))  # it crosses from a loader's process
    assert (again.reason, again.what, str(again)) == (found.reason, found.what, str(found))
    with pytest.raises(InputError, match="nowhere"):
        StoredMaps(folder / "nowhere", root)
    too_long = "x" * 300 + ".jpg"
    assert problem(folder, root, too_long).reason in ("no map", "unreadable map")
    (folder / "2.npy").mkdir()
    assert problem(folder, root, "dog/2.jpg").reason == "no map"


def test_the_only_array_serves_every_class_unless_it_is_another_ones(tmp_path):
    np.savez(tmp_path / "a.npz", cat=np.ones((2, 2)))
    np.savez(tmp_path / "b.npz", np.ones((2, 2)))
    maps = StoredMaps(tmp_path, tmp_path / "images", classes=("cat", "dog"))
    assert maps.load(tmp_path / "images" / "a.jpg", "cat", (2, 2)).shape == (2, 2)
    assert maps.load(tmp_path / "images" / "b.jpg", "dog", (2, 2)).shape == (2, 2)
    with pytest.raises(MapProblem) as problem:
        maps.load(tmp_path / "images" / "a.jpg", "dog", (2, 2))
    assert problem.value.reason == "no map"
    assert StoredMaps(tmp_path, tmp_path).load(tmp_path / "a.jpg", "dog", (2, 2)).sum() == 4
