"""COCO and JSON of its form: a row for every category of every image."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cgc.data.boxes import open_boxes
from cgc.errors import InputError
from tests.data.boxed_fixture import coco_folder, coco_image, coco_json, coco_object, make_image


def two_images():
    """A dog and two cats in one, a cat in the other; ids in no order, a third image without annotation."""
    return coco_json(
        [coco_image(12, "b.jpg"), coco_image(5, "a.jpg"), coco_image(6, "c.jpg")],
        [
            coco_object(1, 12, 7, [0, 0, 40, 30]),
            coco_object(2, 5, 3, [1.2, 2.5, 3.0, 4.25]),
            coco_object(3, 12, 3, [10.5, 20, 9.5, 5.5]),
            coco_object(4, 12, 3, [-3, 28.9, 4, 7]),
        ],
    )


def rows(found):
    return [(image.path.name, image.label, image.boxes.tolist()) for image in found.images]


def test_every_category_of_every_image_is_a_row(tmp_path):
    found = open_boxes(coco_folder(tmp_path, two_images()))
    assert found.classes == ("cat", "dog")  # ids 3 and 7
    assert found.multi_label
    # x: ⌊1.2⌋ … ⌈4.2⌉ − 1 = 4, y: ⌊2.5⌋ … ⌈6.75⌉ − 1 = 6; 10.5 … 20 → 10 … 19, 20 … 25.5 → 20 … 25;
    # −3 … 1 → 0 … 0 and 28.9 … 35.9 → 28 … 29
    assert rows(found) == [
        ("a.jpg", 0, [[1, 2, 4, 6]]),
        ("b.jpg", 0, [[10, 20, 19, 25], [0, 28, 0, 29]]),
        ("b.jpg", 1, [[0, 0, 39, 29]]),
    ]
    assert found.clipped == 1
    assert found.skipped == {"no annotation": [str(tmp_path / "val2014" / "c.jpg")]}
    assert not any(image.all_difficult for image in found.images)
    assert found.images[1].path is found.images[2].path
    assert found.layout == "COCO instances_val2014.json"


def test_sizes_are_the_json_s_and_the_file_s_where_it_has_none(tmp_path):
    content = two_images()
    content["images"][0] |= {"width": 50, "height": None}
    content["images"][1] |= {"width": 41}
    del content["images"][2]["height"]
    content["annotations"].append(coco_object(9, 6, 7, [0, 0, 1e9, 1]))
    found = open_boxes(coco_folder(tmp_path, content))
    sizes = {image.path.name: image.size for image in found.images}
    assert sizes == {"a.jpg": (30, 41), "b.jpg": (30, 40), "c.jpg": (30, 40)}
    assert found.images[-1].boxes.tolist() == [[0, 0, 39, 0]]
    (tmp_path / "val2014" / "c.jpg").write_bytes(b"no image")
    assert "c.jpg" in open_boxes(tmp_path).skipped["unreadable image"][0]


def test_split_and_year(tmp_path):
    content = two_images()
    coco_folder(tmp_path, content)
    assert len(open_boxes(tmp_path, year="2014").images) == 3
    coco_folder(tmp_path, content, images="val2017", year=2017)
    with pytest.raises(InputError, match=r"several annotation files for val;.*instances_val2017\.json"):
        open_boxes(tmp_path)
    assert {image.path.parent.name for image in open_boxes(tmp_path, year=2017).images} == {"val2017"}
    content["categories"] += [{"id": n, "name": f"thing {n}"} for n in range(100, 178)]
    coco_folder(tmp_path, content, images="val2017", year=2017)
    assert len(open_boxes(tmp_path, dataset="coco2017").classes) == 80
    with pytest.raises(InputError, match="2 classes, but coco2014 has 80"):
        open_boxes(tmp_path, dataset="coco2014")
    with pytest.raises(InputError, match=r"year 2017: the dataset coco2014 is of 2014"):
        open_boxes(tmp_path, dataset="coco2014", year=2017)
    with pytest.raises(InputError, match=r"no annotation file for train; there are: instances_val2014\.json"):
        open_boxes(tmp_path, split="train")
    (tmp_path / "annotations" / "instances_minival2014.json").write_text("[]")
    (tmp_path / "annotations" / "captions_val2014.json").write_text("[]")
    assert len(open_boxes(tmp_path, year=2014).images) == 3


@pytest.mark.parametrize("folder", ["photos", "images/deep", "."])
def test_any_json_and_any_folder(tmp_path, folder):
    content = two_images()
    for entry in content["images"]:
        make_image(tmp_path / folder / entry["file_name"], size=(40, 30))
    (tmp_path / "annotations").mkdir()
    if folder == "images/deep":
        for entry in content["images"]:
            entry["file_name"] = f"deep/{entry['file_name']}"
    (tmp_path / "annotations" / "mine.json").write_text(json.dumps(content))
    found = open_boxes(tmp_path)
    assert [image.path.parent for image in found.images] == [tmp_path / folder] * 3
    assert found.notes == ["mine.json is the only annotation file: its images are scored"]


def test_images_of_another_split_are_not_taken(tmp_path):
    coco_folder(tmp_path, two_images())
    (tmp_path / "val2014" / "a.jpg").unlink()
    make_image(tmp_path / "train2014" / "a.jpg")
    assert open_boxes(tmp_path).skipped["image not on disk"] == [
        f"{tmp_path}/annotations/instances_val2014.json: images[1]: 'a.jpg'"
    ]


BAD_ANNOTATIONS = {
    "[1] (id 50): bbox is 'left'": coco_object(50, 5, 3, "left"),
    "[2] (id 51): bbox is [1, 2, 3]": coco_object(51, 5, 3, [1, 2, 3]),
    "[3] (id 52): bbox is [1, 2, '3', 4]": coco_object(52, 5, 3, [1, 2, "3", 4]),
    "[4] (id 53): bbox is [1, 2, nan, 4]": coco_object(53, 5, 3, [1, 2, float("nan"), 4]),
    "[5] (id 54): bbox is [1, 2, inf, 4]": coco_object(54, 5, 3, [1, 2, float("inf"), 4]),
    "[6] (id 55): bbox [1, 2, -3, 4] has no extent": coco_object(55, 5, 3, [1, 2, -3, 4]),
    "[7] (id 56): bbox [1, 2, 0, 4] has no extent": coco_object(56, 5, 3, [1, 2, 0, 4]),
    "[8] (id 57): bbox is None": {"id": 57, "image_id": 5, "category_id": 3},
    "[9] (id 58): bbox is [True, 2, 3, 4]": coco_object(58, 5, 3, [True, 2, 3, 4]),
    "[10]: needs an image_id": 17,
    "[11]: needs an image_id ": {"bbox": [1, 2, 3, 4]},
    "[12] (id 59): bbox is [[[[": coco_object(59, 5, 3, json.loads("[" * 100 + "]" * 100)),
    "[13] (id 60): bbox is [1000000": coco_object(60, 5, 3, [10**400, 0, 1, 1]),
}


def test_bad_annotations_are_skipped_and_named(tmp_path):
    content = coco_json(
        [coco_image(5, "a.jpg"), coco_image(6, "b.jpg")],
        [
            coco_object(1, 5, 3, [0, 0, 2, 2]),
            *BAD_ANNOTATIONS.values(),
            coco_object(80, 99, 3, [0, 0, 1, 1]),
            coco_object(81, [5], 3, [0, 0, 1, 1]),
            coco_object(82, 5, 4, [0, 0, 1, 1]),
            coco_object(83, 6, {"id": 3}, [0, 0, 1, 1]),
        ],
    )
    found = open_boxes(coco_folder(tmp_path, content))
    assert rows(found) == [("a.jpg", 0, [[0, 0, 1, 1]])]
    path = tmp_path / "annotations" / "instances_val2014.json"
    told = found.skipped["malformed annotation"]
    assert len(told) == len(BAD_ANNOTATIONS)
    for line, expected in zip(told, BAD_ANNOTATIONS, strict=True):
        assert line.startswith(f"{path}: annotations{expected}")
        assert len(line) < len(str(path)) + 120
    assert found.skipped["annotation of an unknown image"] == [
        f"{path}: annotations[14] (id 80): image 99", f"{path}: annotations[15] (id 81): image [5]"
    ]  # fmt: skip
    assert found.skipped["annotation of an unknown category"] == [
        f"{path}: annotations[16] (id 82): category 4", f"{path}: annotations[17] (id 83): category {{'id': 3}}"
    ]  # fmt: skip
    assert found.skipped["no usable annotation"] == [str(tmp_path / "val2014" / "b.jpg")]


def test_bad_image_entries_are_skipped_and_named(tmp_path):
    good = coco_image(5, "a.jpg")
    bad = [coco_image(6, "../val2014/a.jpg"), coco_image(7, "/etc/passwd"), coco_image(8, "x\0.jpg")]
    bad += [good, coco_image(9, "a.jpg"), coco_image([1], "b.jpg"), coco_image(10, 4), {"id": 3}, "a.jpg"]
    content = coco_json([good], [coco_object(1, 5, 3, [0, 0, 2, 2])])
    coco_folder(tmp_path, content)
    content["images"] += bad
    (tmp_path / "annotations" / "instances_val2014.json").write_text(json.dumps(content))
    found = open_boxes(tmp_path)
    assert len(found.images) == 1
    counts = {reason: len(files) for reason, files in found.skipped.items()}
    assert counts == {"image not on disk": 3, "image listed twice": 2, "malformed image entry": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1, column 1: no JSON"),
        ('{"images": [],\n "annotations" [],', r"line 2, column 16: no JSON"),
        ("[" * 200_000, r"nested absurdly|no JSON"),
        ('{"a":' * 200_000 + "1" + "}" * 200_000, r"nested absurdly"),
        ("[1, 2]", r"holds list, not an object"),
        ('{"images": {}, "annotations": [], "categories": []}', r"has no list 'images'"),
        ('{"images": [], "annotations": [], "categories": []}', r"has no categories"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": "1", "name": "a"}]}',
            r"categories\[0\]: needs",
        ),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a\\nb"}]}', r"printable name"),
        ('{"images": [], "annotations": [], "categories": [7]}', r"categories\[0\]: needs"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            r"the id 1 stands there more than once",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}',
            r"'a' stands there more than once",
        ),
        (f'{{"images": [{"9" * 5000}]}}', r"no JSON|has no list"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
            r"no image can be scored",
        ),
    ],
)
def test_json_that_is_broken_as_a_whole(tmp_path, text, message):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2014.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        open_boxes(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_json_that_is_no_text(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2014.json").write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(InputError, match=r"instances_val2014\.json: no JSON"):
        open_boxes(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no JSON in"):
        open_boxes(tmp_path / "empty", dataset="coco")


def test_a_class_list_of_the_model_s_own(tmp_path):
    coco_folder(tmp_path, two_images())
    (tmp_path / "names.txt").write_text("horse\ndog\n")
    found = open_boxes(tmp_path, classes=tmp_path / "names.txt")
    assert rows(found) == [("b.jpg", 1, [[0, 0, 39, 29]])]
    assert found.notes == ["3 objects of classes that the model does not know: cat"]


L_SHAPE = [0, 0, 8, 0, 8, 4, 4, 4, 4, 10, 0, 10]


def test_masks_are_the_union_of_a_category_s_objects_and_decoded_lazily(tmp_path):
    coco = pytest.importorskip("pycocotools.mask")
    square = np.zeros((30, 40), dtype=np.uint8, order="F")
    square[20:25, 30:36] = 1
    compressed = coco.encode(square)
    content = coco_json(
        [coco_image(5, "a.jpg")],
        [
            coco_object(1, 5, 3, [0, 0, 8, 10], [L_SHAPE]),
            coco_object(2, 5, 3, [30, 20, 6, 5], {"size": [30, 40], "counts": compressed["counts"].decode()}),
            # column by column: two columns of 30 background, then 3 pixels from the third column's top
            coco_object(3, 5, 7, [2, 0, 1, 3], {"size": [30, 40], "counts": [60, 3, 30 * 40 - 63]}),
            coco_object(4, 5, 7, [2, 0, 1, 3]),
            coco_object(5, 5, 7, [2, 0, 1, 3], {"size": [10**9, 10**9], "counts": [10**18]}),
            coco_object(6, 5, 7, [2, 0, 1, 3], [[1, 2, 3, 4]]),
            coco_object(7, 5, 7, [2, 0, 1, 3], [[1, 2, 3, 4, 1e9, 5]]),
        ],
    )
    found = open_boxes(coco_folder(tmp_path, content), regions="masks")
    cat, dog = found.images
    expected = square.astype(bool)
    expected[:10, :4] = True  # pixel centres inside the L
    expected[:4, 4:8] = True
    assert np.array_equal(cat.region, expected)
    assert cat.boxes.tolist() == [[0, 0, 7, 9], [30, 20, 35, 24]]
    expected_dog = np.zeros((30, 40), dtype=bool)
    expected_dog[:3, 2] = True
    assert np.array_equal(dog.region, expected_dog)
    assert dog.region.dtype == bool
    told = found.skipped["malformed annotation"]
    assert [line.partition("): ")[2] for line in told] == [
        "has no segmentation",
        "run lengths of …×… px in an image of 30×40",
        "a polygon is a list of x y x y … with at least three points",
        "a polygon lies far outside the image",
    ]


def test_boxes_stay_boxes_where_segmentations_are_odd(tmp_path):
    content = coco_json([coco_image(5, "a.jpg")], [coco_object(1, 5, 3, [0, 0, 8, 10], {"counts": "?"})])
    found = open_boxes(coco_folder(tmp_path, content))
    assert (found.images[0].mask, found.skipped) == (None, {})
    with pytest.raises(InputError, match="no image can be scored"):
        open_boxes(tmp_path, regions="masks")


def test_without_pycocotools_polygons_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.mask", None)
    runs = {"size": [30, 40], "counts": [0, 1200]}
    content = coco_json([coco_image(5, "a.jpg")], [coco_object(1, 5, 3, [0, 0, 40, 30], runs)])
    assert open_boxes(coco_folder(tmp_path, content), regions="masks").images[0].region.all()
    content["annotations"].append(coco_object(2, 5, 3, [0, 0, 8, 10], [L_SHAPE]))
    coco_folder(tmp_path, content)
    with pytest.raises(InputError, match="pip install pycocotools"):
        open_boxes(tmp_path, regions="masks")
    assert len(open_boxes(tmp_path).images) == 1


def test_a_folder_of_xml_with_json_beside_stays_a_folder_of_xml(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "index.json").write_text("{}")
    (tmp_path / "annotations" / "x.xml").write_text("<annotation/>")
    (tmp_path / "val").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "val" / "x.png")
    with pytest.raises(InputError, match="'none' is no ImageNet id"):
        open_boxes(tmp_path)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from([3, 5, 7]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
ENTRIES = st.dictionaries(
    st.sampled_from(
        ["id", "image_id", "category_id", "bbox", "segmentation", "file_name", "width", "height", "name"]
    ),
    VALUES | st.just("a.jpg") | st.lists(st.floats(-5, 50), min_size=4, max_size=4),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(ENTRIES, max_size=2), st.lists(ENTRIES, max_size=4), st.lists(VALUES, max_size=1))
def test_no_json_ends_in_anything_but_an_input_error(images, annotations, more):
    entries = [coco_object(1, 5, 3, [0, 0, 8, 10], [L_SHAPE]) | changed for changed in annotations]
    content = coco_json(
        [coco_image(5, "a.jpg"), *(coco_image(6, "b.jpg") | e for e in images)], entries + more
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "annotations").mkdir()
        (Path(folder) / "annotations" / "x.json").write_text(json.dumps(content))
        make_image(Path(folder) / "a.jpg", size=(40, 30))
        for regions in ("boxes", "masks"):
            rows_read, message = [], ""
            try:
                rows_read = open_boxes(folder, regions=regions).images
            except InputError as error:
                message = str(error)
            assert "\n" not in message
            for image in rows_read:
                x0, y0, x1, y1 = image.boxes.T
                assert ((x0 >= 0) & (x0 <= x1) & (x1 < image.size[1])).all()
                assert ((y0 >= 0) & (y0 <= y1) & (y1 < image.size[0])).all()
                with contextlib.suppress(ValueError):  # an empty mask
                    assert image.region.dtype == (bool if regions == "masks" else np.int64)
