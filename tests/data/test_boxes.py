"""Readers of boxed datasets."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from cgc.data.box_layouts import READERS
from cgc.data.boxes import BOXED_DATASETS, BoxedImage, open_boxes
from cgc.data.class_names import ClassIndex, imagenet_wnids, read_classes
from cgc.errors import InputError
from tests.data.boxed_fixture import LEFT, make_image, scored_folder, voc, voc_object


def flat(root, **xml):
    for name, text in xml.items():
        (root / "annotation").mkdir(exist_ok=True)
        (root / "annotation" / f"{name}.xml").write_text(text)
        make_image(root / "val" / f"{name}.JPEG", size=(40, 30))
    return root


def test_voc_folder_as_people_write_it(tmp_path):
    found = open_boxes(scored_folder(tmp_path), classes=tmp_path / "names.txt")
    assert [(image.path.stem, image.label, image.all_difficult) for image in found.images] == [
        ("a one box", 0, False), ("b", 0, False), ("c", 1, True), ("d", 1, False), ("e", 1, False)
    ]  # fmt: skip
    assert found.images[0].boxes.tolist() == [[0, 0, 49, 99]]
    assert found.images[1].boxes.tolist() == [[0, 0, 24, 99], [75, 0, 99, 99]]
    assert found.images[4].boxes.tolist() == [[74, 0, 99, 99]]  # fractions widen; 101 is over the border
    assert found.images[0].size == (100, 100)  # from the image, whatever <size> says
    assert (found.clipped, found.dropped) == (1, 0)
    assert {reason: len(files) for reason, files in found.skipped.items()} == {
        "malformed annotation": 1, "no annotation": 1, "unreadable image": 1
    }  # fmt: skip
    assert "f.xml" in found.skipped["malformed annotation"][0]


def test_imagenet_ids_need_no_class_list_and_xml_may_lie_beside_the_images(tmp_path):
    wnids = imagenet_wnids()
    assert (len(wnids), wnids[0], list(wnids)) == (1000, "n01440764", sorted(wnids))
    make_image(tmp_path / "val" / "x.JPEG")
    (tmp_path / "val" / "x.xml").write_text(voc(voc_object("n01443537", LEFT)))
    found = open_boxes(tmp_path)
    assert found.images[0].label == 1
    assert len(found.classes) == 1000


def test_training_folder_beats_imagenet_ids(tmp_path):
    flat(tmp_path, x=voc(voc_object("n01443537", LEFT)))
    for name in ("n01443537", "n02056570"):
        (tmp_path / "train" / name).mkdir(parents=True)
    found = open_boxes(tmp_path)
    assert (found.classes, found.images[0].label) == (("n01443537", "n02056570"), 0)


def test_cub_names_carry_their_number(tmp_path):
    found = open_boxes(flat(tmp_path, x=voc(voc_object("017.Cardinal", LEFT))))
    assert (found.images[0].label, len(found.classes)) == (16, 200)
    assert open_boxes(tmp_path, dataset="cub").images[0].label == 16
    with pytest.raises(InputError, match="200 classes, but cars has 196"):
        open_boxes(tmp_path, dataset="cars")
    assert ClassIndex(["a", "b", "c"])("003.Anything") == 2
    assert ClassIndex(["001.A", "005.B"])("005.B") == 1
    assert ClassIndex(["001.A", "005.B"])("002.C") is None


def test_boxes_over_the_border_are_clipped_and_empty_ones_dropped(tmp_path):
    objects = [(-5, 1, 99, 10), (41, 1, 60, 10), (9, 9, 3, 20), (2, 2, 3, 3)]
    flat(tmp_path, x=voc(*(voc_object("n01440764", box) for box in objects)))
    found = open_boxes(tmp_path)
    assert found.images[0].boxes.tolist() == [[0, 0, 39, 9], [1, 1, 2, 2]]
    assert (found.clipped, found.dropped) == (1, 2)


def test_an_image_of_two_classes_counts_for_both(tmp_path):
    boxes = {"n01443537": (1, 1, 5, 5), "n01440764": (6, 6, 9, 9), "thing": (1, 1, 2, 2)}
    flat(tmp_path, x=voc(*(voc_object(name, box) for name, box in boxes.items())))
    (tmp_path / "names.txt").write_text("n01440764\nn01443537\n")
    found = open_boxes(tmp_path, classes=tmp_path / "names.txt")
    pairs = [(image.label, image.boxes.tolist()) for image in found.images]
    assert pairs == [(0, [[5, 5, 8, 8]]), (1, [[0, 0, 4, 4]])]


def tiny_imagenet(root):
    for name in ("n01443537", "n02056570"):
        (root / "train" / name).mkdir(parents=True)
    for name in ("val_0.JPEG", "val_1.JPEG"):
        make_image(root / "val" / "images" / name, size=(64, 64))
    table = "val_1.JPEG\tn02056570\t0\t31\t60\t64\nval_0.JPEG\tn01443537\t3\t4\t5\t6\n"
    (root / "val" / "val_annotations.txt").write_text(table)
    return root


def test_tiny_imagenet(tmp_path):
    found = open_boxes(tiny_imagenet(tmp_path))
    rows = [(image.path.name, image.label, image.boxes.tolist()) for image in found.images]
    assert rows == [("val_0.JPEG", 0, [[3, 4, 5, 6]]), ("val_1.JPEG", 1, [[0, 31, 60, 63]])]
    assert (found.layout, found.clipped) == ("tiny-imagenet", 1)
    table = "".join(
        f"val_0.JPEG\tn01443537\t{x}\t4\t{x + 1}\t6\nval_1.JPEG\tn02056570\t0\t0\t1\t1\n" for x in (3, 9)
    )
    (tmp_path / "val" / "val_annotations.txt").write_text(table)
    assert open_boxes(tmp_path).images[0].boxes.tolist() == [[3, 4, 4, 6], [9, 4, 10, 6]]
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01443537\t3\t4\tfive\t6\n")
    with pytest.raises(InputError, match="line 1: a box is four numbers"):
        open_boxes(tmp_path)


def test_cub_as_distributed(tmp_path):
    tables = {
        "images.txt": "1 001.Auk/a.jpg\n2 002.Bee_eater/b.jpg\n3 002.Bee_eater/c.jpg\n",
        "image_class_labels.txt": "1 1\n2 2\n3 2\n",
        "train_test_split.txt": "1 0\n2 1\n3 0\n",
        "bounding_boxes.txt": "1 10.0 5.0 20.0 10.0\n2 1.0 1.0 2.0 2.0\n3 3.5 4.2 90.0 6.1\n",
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    for name in ("001.Auk/a.jpg", "002.Bee_eater/b.jpg", "002.Bee_eater/c.jpg"):
        make_image(tmp_path / "images" / name, size=(40, 30))
    found = open_boxes(tmp_path)
    rows = [(image.path.name, image.label, image.boxes.tolist()) for image in found.images]
    trained_on = open_boxes(tmp_path, split="train").images
    assert [image.boxes.tolist() for image in trained_on] == [[[1, 1, 2, 2]]]
    with pytest.raises(InputError, match="splits train and test"):
        open_boxes(tmp_path, split="val")
    # ⌊10⌋, ⌈10 + 20⌉ − 1 = 29; ⌊3.5⌋, ⌈93.5⌉ − 1 clipped to 39, ⌊4.2⌋, ⌈10.3⌉ − 1 = 10
    assert rows == [("a.jpg", 0, [[10, 5, 29, 14]]), ("c.jpg", 1, [[3, 4, 39, 10]])]
    assert len(found.classes) == 200


def test_clear_errors(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        open_boxes(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no folder 'val' or 'test'"):
        open_boxes(tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(InputError, match="no images"):
        open_boxes(tmp_path)
    make_image(tmp_path / "val" / "x.JPEG")
    with pytest.raises(InputError, match="no annotations"):
        open_boxes(tmp_path)
    (tmp_path / "val" / "x.xml").write_text(voc(voc_object("unicorn", LEFT)))
    with pytest.raises(InputError, match=r"'unicorn' is no ImageNet id.*--classes"):
        open_boxes(tmp_path)
    (tmp_path / "names.txt").write_text("cat\n")
    with pytest.raises(InputError, match=r"no object of a known class.*'unicorn'.*'cat'"):
        open_boxes(tmp_path, classes=tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("cat\ncat\n")
    with pytest.raises(InputError, match="'cat' stands there more than once"):
        read_classes(tmp_path / "names.txt")


def test_rows_are_as_they_were_and_travel_to_other_processes(tmp_path):
    boxes = np.array([[0, 1, 2, 3]], dtype=np.int64)
    row = BoxedImage(tmp_path / "a.png", 3, boxes, False, (5, 6))
    assert (row.mask, row.alternatives, row.region is boxes) == (None, (), True)
    copy = pickle.loads(pickle.dumps(row))
    assert (copy.path, copy.label, copy.boxes.tolist(), copy.size) == (row.path, 3, [[0, 1, 2, 3]], (5, 6))


def test_annotations_nested_in_folders_are_found_by_path_and_else_by_name(tmp_path):
    for name in ("a", "b", "c", "d", "n01/x", "n02/x"):
        make_image(tmp_path / "val" / f"{name}.JPEG", size=(40, 30))
    places = {
        "a": (1, 1, 1, 1), "val/b": (2, 2, 2, 2), "CLS-LOC/deep/c": (3, 3, 3, 3), "p/d": (4, 4, 4, 4),
        "q/d": (4, 4, 4, 4), "val/n01/x": (5, 5, 5, 5),
    }  # fmt: skip
    for place, box in places.items():
        path = tmp_path / "Annotations" / f"{place}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(voc(voc_object("n01440764", box)))
    found = open_boxes(tmp_path)
    rows = {str(image.path.relative_to(tmp_path / "val")): image.boxes.tolist() for image in found.images}
    # n01's annotation is not that of the image of the same name in n02
    assert rows == {
        "a.JPEG": [[0, 0, 0, 0]], "b.JPEG": [[1, 1, 1, 1]], "c.JPEG": [[2, 2, 2, 2]], "n01/x.JPEG": [[4, 4, 4, 4]]
    }  # fmt: skip
    assert found.skipped["no annotation"] == [str(tmp_path / "val" / "n02" / "x.JPEG")]
    assert "p/d.xml" in found.skipped["several annotations"][0]
    assert "q/d.xml" in found.skipped["several annotations"][0]


def test_images_missing_or_without_a_box_of_a_known_class_are_named(tmp_path):
    flat(
        tmp_path,
        good=voc(voc_object("n01440764", (1, 1, 4, 4)), voc_object("tree", (1, 1, 4, 4))),
        tree=voc(voc_object("tree", (1, 1, 4, 4))),
        empty=voc(),
        outside=voc(voc_object("n01440764", (90, 90, 99, 99))),
    )
    (tmp_path / "val" / "link.JPEG").symlink_to(tmp_path / "nowhere.JPEG")
    (tmp_path / "val" / "link.xml").write_text(voc(voc_object("n01440764", LEFT)))
    (tmp_path / "names.txt").write_text("n01440764\n")
    found = open_boxes(tmp_path, classes=tmp_path / "names.txt")
    assert [image.path.stem for image in found.images] == ["good"]
    val = tmp_path / "val"
    assert found.skipped == {
        "no object of a known class": [f"{val / 'empty.JPEG'}: no object", f"{val / 'tree.JPEG'}: tree"],
        "no box inside the image": [str(val / "outside.JPEG")],
        "image not on disk": [str(val / "link.JPEG")],
    }
    assert found.dropped == 1
    assert found.notes == ["2 objects of classes that the model does not know: tree"]


def test_choices_that_a_layout_does_not_have_are_refused(tmp_path):
    flat(tmp_path, x=voc(voc_object("n01443537", LEFT)))
    with pytest.raises(InputError, match="boxes only, no masks"):
        open_boxes(tmp_path, regions="masks")
    with pytest.raises(InputError, match=r"no years.*2012"):
        open_boxes(tmp_path, year=2012)
    with pytest.raises(InputError, match="year '12': a year has four digits"):
        open_boxes(tmp_path, year="12")
    with pytest.raises(InputError, match="has no folder 'test'"):
        open_boxes(tmp_path, split="test")
    with pytest.raises(InputError, match=r"unknown dataset 'birds'.*coco2014.*cub.*voc2007"):
        open_boxes(tmp_path, dataset="birds")
    with pytest.raises(ValueError, match="regions must be"):
        open_boxes(tmp_path, regions="polygons")
    (tmp_path / "other").mkdir()
    make_image(tmp_path / "other" / "x.JPEG", size=(40, 30))
    assert open_boxes(tmp_path, split="other").images[0].path == tmp_path / "other" / "x.JPEG"


def test_boxed_datasets_say_what_they_are():
    counts = {name: (spec.name, spec.num_classes, spec.year) for name, spec in BOXED_DATASETS.items()}
    assert counts == {
        "coco": ("coco", 80, None),
        "coco2014": ("coco2014", 80, 2014),
        "coco2017": ("coco2017", 80, 2017),
        "voc2007": ("voc2007", 20, 2007),
        "voc2012": ("voc2012", 20, 2012),
        "pets": ("pets", 37, None),
        "unrel": ("unrel", 1000, None),
    }
    assert all(spec.reads for spec in BOXED_DATASETS.values())
    assert {spec.reader for spec in BOXED_DATASETS.values()} == set(READERS)
