"""Which images do not contain a category: read from COCO's JSON, drawn from, stored and read again."""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgc.data.negatives import UNLISTED, NegativeImages, negatives_from_coco, read_negatives, write_negatives
from cgc.errors import InputError, RunError
from tests.data.boxed_fixture import coco_image, coco_json, coco_object


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def written(folder: Path, content: object) -> Path:
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def matrix(*rows: str) -> np.ndarray:
    """One row per category, one character per image: "." where the image lacks it."""
    return np.array([[cell == "." for cell in row] for row in rows])


def small() -> NegativeImages:
    """Images a to e; a cat in a and c, a dog in b to e."""
    return NegativeImages(("cat", "dog"), tuple("abcde"), matrix("x.x..", ".xxxx"))


def test_what_an_image_contains(tmp_path: Path) -> None:
    images = [
        coco_image(5, "b.jpg"),
        coco_image(9, "a.jpg"),
        coco_image("x", "sub/c.jpg"),
        coco_image(7, "d.jpg"),
    ]
    objects = [
        coco_object(1, 5, 7, [0, 0, 4, 3]),
        coco_object(2, 9, 3, [0, 0, 4, 3]),
        coco_object(3, 9, 7, "no box, but still in the image"),
        coco_object(4, "x", 3, [0, 0, 4, 3]),
        {**coco_object(5, "x", 3, [0, 0, 9, 9]), "iscrowd": 1},
    ]
    negatives, skipped = negatives_from_coco(written(tmp_path, coco_json(images, objects)))
    assert negatives.categories == ("cat", "dog")  # ids 3 and 7
    assert negatives.names == ("a.jpg", "b.jpg", "sub/c.jpg")
    assert negatives.absent_KM.tolist() == matrix("x.x", "xx.").tolist()
    assert negatives.counts() == [1, 1]
    assert skipped == {"no annotation": ["d.jpg"]}


def test_what_is_wrong_is_skipped_and_named(tmp_path: Path) -> None:
    images = [
        coco_image(1, "a.jpg"),
        coco_image(2, "b.jpg"),
        coco_image(3, "a.jpg"),
        coco_image(1, "c.jpg"),
        coco_image(4, "../d.jpg"),
        coco_image([5], "e.jpg"),
        coco_image(6, "half \ud800.jpg"),
        "no image",
    ]
    objects = [
        coco_object(1, 1, 3, [0, 0, 4, 3]),
        coco_object(2, 2, 91, [0, 0, 4, 3]),
        coco_object(3, 1, 91, [0, 0, 4, 3]),
        coco_object(4, 2, "dog", [0, 0, 4, 3]),
        coco_object(5, 99, 3, [0, 0, 4, 3]),
        coco_object(6, [1], 3, [0, 0, 4, 3]),
        coco_object(7, True, 3, [0, 0, 4, 3]),
        {"id": 8},
    ]
    path = written(tmp_path, coco_json(images, objects))
    negatives, skipped = negatives_from_coco(path)
    assert negatives.names == ("a.jpg",)
    assert skipped == {
        "image listed twice": [f"{path}: images[2]: id 3, 'a.jpg'", f"{path}: images[3]: id 1, 'c.jpg'"],
        "malformed image entry": [f"{path}: images[{i}]: needs an id and a file_name" for i in (4, 5, 6, 7)],
        "annotation of an unknown image": [
            f"{path}: annotations[4]: image 99",
            f"{path}: annotations[5]: image [1]",
            f"{path}: annotations[6]: image True",
        ],
        "malformed annotation": [f"{path}: annotations[7]: needs an image_id and a category_id"],
        UNLISTED: [
            f"{path}: category 91, 2 times, the first: annotations[1]",
            f"{path}: category 'dog', 1 times, the first: annotations[3]",
        ],
        "no usable annotation": ["b.jpg"],
    }


def test_a_file_without_any_usable_image_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, coco_json([coco_image(1, "a.jpg")], [coco_object(1, 1, 8, [0, 0, 1, 1])]))
    with pytest.raises(InputError, match=r"instances\.json: no image with an annotation.*1 × no usable"):
        negatives_from_coco(path)
    with pytest.raises(InputError, match="no images"):
        negatives_from_coco(written(tmp_path, coco_json([], [])))
    with pytest.raises(InputError, match=r"missing\.json"):
        negatives_from_coco(tmp_path / "missing.json")


@settings(max_examples=50, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_drawn_images_are_different_and_lack_the_category(data: st.DataObject, seed: int) -> None:
    images = data.draw(st.integers(1, 30))
    row = data.draw(st.lists(st.booleans(), min_size=images, max_size=images))
    negatives = NegativeImages(("thing",), tuple(map(str, range(images))), np.array([row]))
    lacking = [m for m, absent in enumerate(row) if absent]
    assert negatives.counts() == [len(lacking)]
    n = data.draw(st.integers(0, len(lacking)))
    drawn = negatives.draw(0, n, seeded(seed)).tolist()
    assert len(set(drawn)) == n
    assert set(drawn) <= set(lacking)
    assert drawn == negatives.draw(0, n, seeded(seed)).tolist()
    assert sorted(negatives.draw(0, len(lacking), seeded(seed)).tolist()) == lacking
    with pytest.raises(InputError, match=rf"only {len(lacking)} images .* 'thing', {len(lacking) + 1} are"):
        negatives.draw(0, len(lacking) + 1, seeded(seed))


def test_every_choice_and_order_is_as_likely() -> None:
    """Pairs of the three images without a cat: 6 in order, 1000 expected each."""
    generator, negatives = seeded(1), small()
    counts = Counter(tuple(negatives.draw(0, 2, generator).tolist()) for _ in range(6000))
    assert set(counts) == set(itertools.permutations([1, 3, 4], 2))
    assert (
        sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 20.5
    )  # χ², 5 degrees of freedom, p = 0.001
    assert negatives.draw(1, 1, generator).tolist() == [0]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_file_gives_back_what_was_written(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    k, m = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 20))
    cells = data.draw(st.lists(st.booleans(), min_size=k * m, max_size=k * m))
    absent = np.array(cells).reshape(k, m)
    absent[0, absent.all(axis=0)] = False  # every image shows something
    names = data.draw(st.lists(st.text("aé日/.", min_size=1, max_size=3), min_size=m, max_size=m))
    negatives = NegativeImages(
        tuple(f"thing {i}" for i in range(k)),
        tuple(f"{i}é{n}.jpg".replace("..", "") for i, n in enumerate(names)),
        absent,
    )
    path = tmp_path_factory.mktemp("lists") / "list.npz"
    write_negatives(negatives, path)
    found = read_negatives(path)
    assert (found.categories, found.names) == (negatives.categories, negatives.names)
    assert np.array_equal(found.absent_KM, absent)
    assert found.counts() == negatives.counts()
    assert list(path.parent.iterdir()) == [path]


def test_the_matrix_is_packed(tmp_path: Path) -> None:
    absent = np.random.default_rng(0).random((16, 8000)) < 0.5
    write_negatives(
        NegativeImages(tuple(map(str, range(16))), tuple(map(str, range(8000))), absent), tmp_path / "a.npz"
    )
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.getinfo("absent.npy").file_size < 16 * 1000 + 200


GOOD: dict[str, Any] = {
    "version": np.array(1),
    "absent": np.packbits(small().absent_KM, axis=1),
    "categories": np.frombuffer(b"cat\0dog", np.uint8),
    "images": np.frombuffer(b"a\0b\0c\0d\0e", np.uint8),
}
BAD = {
    "another version": {"version": np.array(2)},
    "no version": {"version": None},
    "objects": {"categories": np.array(["cat", "dog"], dtype=object)},
    "of other": {"images": np.frombuffer(b"a\0b\0c", np.uint8)},  # bits beyond the third image
    "uint8": {"absent": small().absent_KM},
    r"\(2, 2\)": {"absent": np.zeros((2, 2), np.uint8)},
    "twice": {"images": np.frombuffer(b"a\0b\0c\0d\0a", np.uint8)},
    "folder": {"images": np.frombuffer(b"a\0b\0c\0d\0../e", np.uint8)},
    "show nothing": {"absent": np.array([[0b11111000], [0b11111000]], np.uint8)},
    "bytes": {"images": np.array(["a", "b"])},
    "empty": {"categories": np.frombuffer(b"cat\0", np.uint8)},
    "codec": {"categories": np.frombuffer(b"cat\0\xff", np.uint8)},
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_of_something_else_is_refused(case: str, tmp_path: Path) -> None:
    said = {
        "another version": "another version",
        "no version": "version",
        "objects": "Object",
        "of other": "more than",
    }
    path = tmp_path / "list.npz"
    arrays = {name: array for name, array in {**GOOD, **BAD[case]}.items() if array is not None}
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=said.get(case, case)) as caught:
        read_negatives(path)
    assert str(caught.value).startswith(f"{path} is no list of negative images: ")
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.npz"
    write_negatives(small(), path)
    content = path.read_bytes()
    assert read_negatives(path).names == tuple("abcde")
    for end in range(0, len(content), 97):
        path.write_bytes(content[:end])
        with pytest.raises(InputError, match=r"list\.npz"):
            read_negatives(path)
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name in GOOD:
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + buffer.getvalue()[8:])
    with pytest.raises(InputError, match=r"list\.npz"):
        read_negatives(path)
    with pytest.raises(InputError, match="No such file"):
        read_negatives(tmp_path / "missing.npz")
    with pytest.raises(InputError, match="directory"):
        read_negatives(tmp_path)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"list\.npz cannot be written"):
        write_negatives(small(), tmp_path / "missing" / "list.npz")


def test_a_matrix_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 5\)"):
        NegativeImages(("cat", "dog"), tuple("abcde"), matrix("....."))
