"""VOC's devkit, Oxford-IIIT Pet and FGVC-Aircraft as distributed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cgc.data import voc_devkit
from cgc.data.boxes import open_boxes
from cgc.data.voc import read_voc
from cgc.data.voc_devkit import VOC_CLASSES
from cgc.errors import InputError
from tests.data.boxed_fixture import make_image, voc, voc_object


def voc_year(folder, split):
    """Five listed images: three with XML, one without, one that is not on disk, and broken XML."""
    xml = {
        "000001": voc(
            voc_object("dog", (48, 24, 100, 90)), voc_object("person", (1, 1, 35, 49), difficult=1)
        ),
        "000002": voc(voc_object("cat", ("45.7", 1, 200, 10)), voc_object("cat", (3, 3, 4, 4), difficult=1)),
        "000005": voc(voc_object("dog", (1, 1, 2, 2))),
        "000007": "<annotation>\n<object></annotation>",
    }
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for key in ("000001", "000002", "000004", "000007"):
        make_image(folder / "JPEGImages" / f"{key}.jpg")
    for key, text in xml.items():
        (folder / "Annotations" / f"{key}.xml").write_text(text)
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("000002\n000001 1\n000004\n000005\n000007\n")
    (folder / "ImageSets" / "Main" / f"dog_{split}.txt").write_text("000001  1\n")
    return folder


@pytest.mark.parametrize("place", ["", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_voc_devkit(tmp_path, place):
    folder = voc_year(tmp_path / "VOCdevkit" / "VOC2007", "test")
    found = open_boxes(tmp_path / place)
    rows = [
        (image.path.name, image.label, image.boxes.tolist(), image.all_difficult) for image in found.images
    ]
    assert rows == [
        ("000002.jpg", 7, [[44, 0, 99, 9], [2, 2, 3, 3]], False),
        ("000001.jpg", 11, [[47, 23, 99, 89]], False),
        ("000001.jpg", 14, [[0, 0, 34, 48]], True),
    ]
    assert (found.clipped, found.multi_label, found.layout) == (1, True, "VOC2007 test")
    assert (len(found.classes), list(found.classes), found.classes[14]) == (20, sorted(VOC_CLASSES), "person")
    assert found.skipped == {
        "no annotation": [str(folder / "JPEGImages" / "000004.jpg")],
        "image not on disk": [str(folder / "JPEGImages" / "000005.jpg")],
        "malformed annotation": [
            f"{folder / 'Annotations' / '000007.xml'}: not well-formed XML: line 2, column 11: mismatched tag"
        ],
    }
    assert len(open_boxes(tmp_path / place, dataset="voc2007").images) == 3


def test_voc_years_and_splits(tmp_path, monkeypatch):
    voc_year(tmp_path / "VOC2007", "test")
    voc_year(tmp_path / "VOC2012", "val")
    with pytest.raises(InputError, match=r"holds VOC2007, VOC2012; choose the year"):
        open_boxes(tmp_path)
    assert open_boxes(tmp_path, year=2012).layout == "VOC2012 val"
    assert open_boxes(tmp_path, dataset="voc2007").layout == "VOC2007 test"
    with pytest.raises(InputError, match="no VOC2010, only VOC2007, VOC2012"):
        open_boxes(tmp_path, year=2010)
    with pytest.raises(InputError, match=r"trainval\.txt: no such file \(splits that are there: val\)"):
        open_boxes(tmp_path, dataset="voc2012", split="trainval")
    with pytest.raises(InputError, match="boxes only"):
        open_boxes(tmp_path, year=2007, regions="masks")
    with pytest.raises(InputError, match="no VOC year folder"):
        open_boxes(tmp_path / "VOC2007" / "JPEGImages", dataset="voc2007")
    listing = tmp_path / "VOC2007" / "ImageSets" / "Main" / "test.txt"
    listing.write_text("000001\n000002\n000001\n")
    found = open_boxes(tmp_path, year=2007)
    assert [image.path.stem for image in found.images] == ["000001", "000001", "000002"]
    assert found.skipped == {"image listed twice": [str(found.images[0].path)]}
    parsed = []
    monkeypatch.setattr(voc_devkit, "read_voc", lambda xml: parsed.append(xml.stem) or read_voc(xml))
    open_boxes(tmp_path, year=2007)
    assert parsed == ["000001", "000002"], "a list may name an image thousands of times"
    listing.write_text("000001\n../000002\n")
    with pytest.raises(InputError, match=r"test\.txt: line 2: '\.\./000002' is no image's name"):
        open_boxes(tmp_path, year=2007)


def pets(root):
    folder = root / "oxford-iiit-pet"
    (folder / "annotations" / "trimaps").mkdir(parents=True)
    lists = {
        "test": "# name class species breed\nAbyssinian_1 1 1 1\nbasset_hound_10 4 2 2\nEgyptian_Mau_2 3 1 2\n",
        "trainval": "Abyssinian_2 1 1 1\namerican_bulldog_3 2 2 1\n",
    }
    for split, text in lists.items():
        (folder / "annotations" / f"{split}.txt").write_text(text)
    trimap = np.full((4, 6), 2, dtype=np.uint8)
    trimap[1:3, 1:5] = 3
    trimap[1, 2:4] = 1
    for key in ("Abyssinian_1", "basset_hound_10", "Abyssinian_2"):
        make_image(folder / "images" / f"{key}.jpg", size=(6, 4))
        Image.fromarray(trimap).save(folder / "annotations" / "trimaps" / f"{key}.png")
    make_image(folder / "images" / "Egyptian_Mau_2.jpg", size=(6, 4))
    return folder


def test_pets(tmp_path):
    folder = pets(tmp_path)
    for root in (tmp_path, folder):
        found = open_boxes(root)
        assert [(image.path.stem, image.label) for image in found.images] == [
            ("Abyssinian_1", 0), ("basset_hound_10", 3)
        ]  # fmt: skip
        assert found.classes == ("Abyssinian", "american_bulldog", "Egyptian_Mau", "basset_hound")
    expected = np.zeros((4, 6), dtype=bool)
    expected[1, 2:4] = True
    assert np.array_equal(found.images[0].region, expected)
    assert (found.images[0].boxes.shape, found.images[0].size, found.multi_label) == ((0, 4), (4, 6), False)
    assert found.skipped == {"no annotation": [str(folder / "images" / "Egyptian_Mau_2.jpg")]}
    assert found.notes == ["regions are the trimaps' foreground, also where boxes are asked for"]
    assert len(open_boxes(tmp_path, regions="masks", split="trainval").images) == 1
    with pytest.raises(InputError, match="4 classes, but pets has 37"):
        open_boxes(tmp_path, dataset="pets")
    with pytest.raises(InputError, match="splits test and trainval, not 'val'"):
        open_boxes(tmp_path, split="val")
    with pytest.raises(InputError, match="no Oxford-IIIT Pet in it"):
        open_boxes(folder / "images", dataset="pets")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Abyssinian_1 1 1 1\nbasset_hound_10 zero 2 2\n",
            r"test\.txt: line 2: expected an image and the number",
        ),
        ("Abyssinian_1 99999999999 1 1\n", r"test\.txt: line 1: expected an image and the number"),
        ("Abyssinian_1\n", r"test\.txt: line 1: expected 2 columns, found 1"),
        ("../Abyssinian_1 1 1 1\n", r"test\.txt: line 1"),
        ("Abyssinian_1 7 1 1\n", r"'Abyssinian' two class numbers"),
    ],
)
def test_pets_lists_that_are_broken(tmp_path, text, message):
    (pets(tmp_path) / "annotations" / "test.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        open_boxes(tmp_path)


def aircraft(root):
    folder = root / "fgvc-aircraft-2013b" / "data"
    for key in ("0001", "0002", "0003", "0004"):
        make_image(folder / "images" / f"{key}.jpg")
    tables = {
        "variants.txt": "707-320\nA300B4\nF-16A/B\nGulfstream IV\n",
        "images_box.txt": "0001 1 2 50 60\n0002 5 5 200 10\n0003 1 1 2 2\n",
        "images_variant_test.txt": "0002 Gulfstream IV\n0001 A300B4\n0004 A300B4\n",
        "images_variant_train.txt": "0003 F-16A/B\n",
    }
    for name, text in tables.items():
        (folder / name).write_text(text)
    return folder


def test_aircraft(tmp_path):
    folder = aircraft(tmp_path)
    for root in (tmp_path, tmp_path / "fgvc-aircraft-2013b", folder):
        found = open_boxes(root)
        rows = [(image.path.name, image.label, image.boxes.tolist()) for image in found.images]
        assert rows == [("0002.jpg", 3, [[4, 4, 99, 9]]), ("0001.jpg", 1, [[0, 1, 49, 59]])]
        assert (found.layout, found.clipped, found.multi_label) == ("FGVC-Aircraft test", 1, False)
    assert found.skipped == {"no annotation": [str(folder / "images" / "0004.jpg")]}
    assert [image.label for image in open_boxes(tmp_path, split="train").images] == [2]
    with pytest.raises(InputError, match="4 classes, but aircraft has 100"):
        open_boxes(tmp_path, dataset="aircraft")
    (folder / "variants.txt").write_text("A300B4\n" + "".join(f"other {n}\n" for n in range(99)))
    found = open_boxes(tmp_path, dataset="fgvc")
    assert [image.path.name for image in found.images] == ["0001.jpg"]
    assert found.skipped["no object of a known class"] == [f"{folder / 'images' / '0002.jpg'}: Gulfstream IV"]
    (folder / "images_box.txt").write_text("0001 1 2 50 60\n0002 5 5 wide 10\n")
    with pytest.raises(
        InputError, match=r"images_box\.txt: line 2: a box is four numbers, not '5 5 wide 10'"
    ):
        open_boxes(tmp_path)
    with pytest.raises(InputError, match="splits test, train, val, trainval"):
        open_boxes(tmp_path, split="all")
