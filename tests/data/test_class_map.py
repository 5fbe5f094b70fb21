"""Class maps, and UnRel, which needs one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cgc.data.boxes import open_boxes
from cgc.data.class_map import read_class_map, template_path
from cgc.data.class_names import imagenet_wnids
from cgc.errors import InputError
from tests.data.boxed_fixture import (
    coco_folder,
    coco_image,
    coco_json,
    coco_object,
    make_image,
    voc,
    voc_object,
)

WNIDS = imagenet_wnids()


def written(folder, text, name="map.tsv"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.tsv", f"# a comment\n\nwild dog\t{WNIDS[5]} {WNIDS[3]} # the first is the label\ncat\t7\n"),
        ("m.csv", f'wild dog,{WNIDS[5]}, {WNIDS[3]}\n"cat",007\n'),
        ("m.txt", f"\ufeffwild dog\t{WNIDS[5]}\t3\r\n  cat\t 7 7 \r\n"),
        ("m.json", json.dumps({"wild dog": [WNIDS[5], 3], "cat": 7})),
        ("m.txt", f'{{"wild dog": ["{WNIDS[5]}", "{WNIDS[3]}"],\n "cat": "7"}}'),
    ],
)
def test_forms_of_a_class_map(tmp_path, name, text):
    assert read_class_map(written(tmp_path, text, name), WNIDS) == {"wild dog": (5, 3), "cat": (7,)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\t7\ndog\tn99999999\n", "line 2: 'n99999999' is none of the 1000 classes"),
        ("cat\t1000\n", "line 1: '1000' is none"),
        ("cat\t-1\n", "line 1: '-1' is none"),
        ("cat\t" + "9" * 5000 + "\n", "line 1"),
        ("cat\t7\n#\ncat\t8\n", "line 3: the category 'cat' stands there a second time"),
        ("cat 7\n", "line 1: no tab or comma"),
        ("cat\t\n", "line 1: 'cat' stands for no class|line 1: '' is none"),
        ("\t7\n", "line 1: '' stands for no class"),
        ("# nothing\n", "maps no category"),
        ('{"cat": [7],\n "dog": [8],\n "cat": [9]}', "line 3: the category 'cat' stands there a second time"),
        ('{"cat": [7],\n "dog": ["n1"]}', "line 2: 'n1' is none"),
        ('{"cat": [7],\n "dog": [1.5]}', "line 2: 'dog' needs a list of classes"),
        ('{"cat": [7],\n "dog": [true]}', "line 2: 'dog' needs a list of classes"),
        ('{"cat": [7],\n "dog": {"a": 1}}', "line 2: 'dog' needs a list of classes"),
        ('{"cat": [7],\n "dog": []}', "line 2: 'dog' stands for no class"),
        ('{"cat": [7],\n', "line 2: no JSON"),
        ('{"a":' * 100_000, "no JSON"),
    ],
)
def test_class_maps_that_are_wrong_name_the_line(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        read_class_map(path, WNIDS)
    assert str(caught.value).startswith(f"class map {path}: ")


def test_class_maps_that_are_no_text(tmp_path):
    with pytest.raises(InputError, match=r"class map .*nowhere: No such file"):
        read_class_map(tmp_path / "nowhere", WNIDS)
    (tmp_path / "m.tsv").write_bytes(b"cat\t7\xff\n")
    with pytest.raises(InputError, match=r"m\.tsv: not a text file"):
        read_class_map(tmp_path / "m.tsv", WNIDS)
    with pytest.raises(InputError, match="line 1: not an object"):
        read_class_map(written(tmp_path, "[1]", "m.json"), WNIDS)


def test_the_template_explains_and_maps_nothing(tmp_path):
    text = Path(template_path()).read_text(encoding="utf-8")
    assert all(line.startswith("#") for line in text.splitlines())
    with pytest.raises(InputError, match="maps no category"):
        read_class_map(template_path(), WNIDS)
    example = next(line for line in text.splitlines() if "<TAB>" in line)
    path = written(tmp_path, example.strip("# ").replace("<TAB>", "\t"))
    assert read_class_map(path, WNIDS) == {"some category": (0, 1)}


def test_a_category_of_several_classes_has_alternatives_in_every_layout(tmp_path):
    content = coco_json(
        [coco_image(1, "a.jpg")],
        [
            coco_object(1, 1, 3, [0, 0, 2, 2]),
            coco_object(2, 1, 7, [5, 5, 2, 2]),
            coco_object(3, 1, 9, [8, 8, 2, 2]),
            coco_object(4, 1, 11, [1, 1, 2, 2]),
        ],
        {3: "cat", 7: "dog", 9: "puppy", 11: "tree"},
    )
    coco_folder(tmp_path, content)
    path = written(tmp_path, "dog\t8 4 6\npuppy\t8 4 6\ncat\t9\nunicorn\t1\n")
    found = open_boxes(tmp_path, class_map=path)
    rows = [(image.label, image.alternatives, image.boxes.tolist()) for image in found.images]
    # A dog and a puppy are the same to the model: one row.
    assert rows == [(8, (4, 6), [[5, 5, 6, 6], [8, 8, 9, 9]]), (9, (), [[0, 0, 1, 1]])]
    assert (found.multi_label, found.classes) == (False, WNIDS)
    assert found.notes == [
        "1 objects of classes that the model does not know: tree",
        "the class map names 1 categories that no object has: unicorn",
    ]
    (tmp_path / "names.txt").write_text("pet\nwild animal\n")
    found = open_boxes(tmp_path, classes=tmp_path / "names.txt", class_map=written(tmp_path, "cat\tpet\n"))
    assert [(image.label, found.classes) for image in found.images] == [(0, ("pet", "wild animal"))]
    with pytest.raises(InputError, match=r"an annotated class is 'cat', the class map has 'unicorn'"):
        open_boxes(tmp_path, class_map=written(tmp_path, "unicorn\t1\n"))


def unrel_images(root):
    for name in ("1.jpg", "2.jpg"):
        make_image(root / "images" / name, size=(40, 30))
    return written(root, f"dog\t{WNIDS[200]} {WNIDS[210]}\nbus\t{WNIDS[300]}\n")


ROWS = [
    ("1.jpg", 200, (210,), [[0, 1, 9, 19]]),
    ("1.jpg", 300, (), [[4, 4, 39, 5]]),
    ("2.jpg", 300, (), [[0, 0, 0, 0]]),
]


def rows_of(found):
    return [
        (image.path.name, image.label, image.alternatives, image.boxes.tolist()) for image in found.images
    ]


def test_unrel_with_a_matlab_file(tmp_path):
    io = pytest.importorskip("scipy.io")
    path = unrel_images(tmp_path)

    def cells(items):
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return array

    dog = {"category": "dog", "box": [1, 2, 10, 20]}
    bus = {"category": "bus", "box": [5.0, 5.0, 90.0, 6.0]}
    entries = [
        {"filename": "2.jpg", "objects": {"category": "bus", "box": [1, 1, 1, 1]}},
        {"filename": "1.jpg", "objects": cells([dog, bus, {"category": "street", "box": [1, 1, 9, 9]}])},
        {"filename": "../1.jpg", "objects": cells([dog])},
        {"filename": "2.jpg", "objects": cells([dog, {"category": "bus", "box": [1, 2, 3]}])},
        {"filename": "2.jpg", "objects": cells([{"category": 3, "box": [1, 2, 3, 4]}, dog])},
        {"filename": "2.jpg", "objects": cells([{"category": "bus", "box": [1, 2, np.nan, 4]}, dog])},
        {"objects": cells([dog])},
    ]
    io.savemat(tmp_path / "annotations.mat", {"annotations": cells(entries)})
    for dataset in ("unrel", None):
        found = open_boxes(tmp_path, dataset=dataset, class_map=path)
        assert rows_of(found) == ROWS
    assert found.layout == "UnRel, annotations.mat"
    told = [
        line.removeprefix(f"{tmp_path / 'annotations.mat'}: ")
        for line in found.skipped["malformed annotation"]
    ]
    assert told == [
        "annotations{3}: filename is '../1.jpg'",
        "annotations{4} (2.jpg): object 2 (bus): box is [1, 2, 3]",
        "annotations{5} (2.jpg): object 1: category is 3",
        "annotations{6} (2.jpg): object 1 (bus): box is [1.0, 2.0, nan, 4.0]",
        "annotations{7}: filename is None",
    ]
    with pytest.raises(
        InputError, match=r"is no ImageNet id.*class map \(as in .*unrel_class_map_template\.txt"
    ):
        open_boxes(tmp_path, dataset="unrel")
    io.savemat(tmp_path / "annotations.mat", {"annotations": entries[0]})  # a single one, not in a cell
    assert rows_of(open_boxes(tmp_path, class_map=path)) == ROWS[2:]


def test_matlab_files_that_cannot_be_read(tmp_path, monkeypatch):
    io = pytest.importorskip("scipy.io")
    path = unrel_images(tmp_path)
    mat = tmp_path / "annotations.mat"
    for content in (
        b"",
        b"no matlab file at all" * 20,
        b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + b"\0" * 99,
    ):
        mat.write_bytes(content)
        with pytest.raises(InputError, match=r"annotations\.mat"):
            open_boxes(tmp_path, class_map=path)
    io.savemat(mat, {"other": 3})
    with pytest.raises(InputError, match="holds no variable 'annotations'"):
        open_boxes(tmp_path, class_map=path)
    io.savemat(mat, {"annotations": 3})
    with pytest.raises(InputError, match="no image can be scored"):
        open_boxes(tmp_path, class_map=path)
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(InputError, match="pip install scipy"):
        open_boxes(tmp_path, class_map=path)


def test_unrel_with_json_and_with_xml(tmp_path):
    path = unrel_images(tmp_path)
    objects = {"1": [("dog", (1, 2, 10, 20)), ("bus", (5, 5, 90, 6)), ("street", (1, 1, 9, 9))]}
    objects["2"] = [("bus", (1, 1, 1, 1))]
    (tmp_path / "annotations").mkdir()
    for name, items in objects.items():
        text = voc(*(voc_object(category, box) for category, box in items))
        (tmp_path / "annotations" / f"{name}.xml").write_text(text)
    found = open_boxes(tmp_path, dataset="unrel", class_map=path)
    assert (rows_of(found), found.layout) == (ROWS, "UnRel, VOC XML")
    content = coco_json(
        [coco_image(1, "1.jpg"), coco_image(2, "2.jpg")],
        [
            coco_object(1, 1, 3, [0, 1, 10, 19]),
            coco_object(2, 1, 7, [4, 4, 86, 2]),
            coco_object(3, 2, 7, [0, 0, 1, 1]),
        ],
        {3: "dog", 7: "bus", 9: "street"},
    )
    (tmp_path / "unrel.json").write_text(json.dumps(content))
    found = open_boxes(tmp_path, dataset="unrel", class_map=path)
    assert (rows_of(found), found.layout, found.multi_label) == (ROWS, "UnRel, COCO unrel.json", False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no UnRel in it"):
        open_boxes(tmp_path / "empty", dataset="unrel", class_map=path)
