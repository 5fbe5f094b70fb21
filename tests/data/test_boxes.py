"""Readers of boxed datasets."""

from __future__ import annotations

import pytest
from PIL import Image

from cgc.data.boxed_views import boxed_loader
from cgc.data.boxes import open_boxes
from cgc.data.class_names import ClassIndex, imagenet_wnids, read_classes
from cgc.data.voc import MalformedAnnotation, read_voc
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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<!DOCTYPE x [<!ENTITY a "b">]><annotation/>', "refused"),
        ("<annotation><object><bndbox/></object></annotation>", "no name"),
        (voc(voc_object("cat", (1, 2, "three", 4))), "xmax is 'three'"),
        (voc(voc_object("cat", (1, 2, "nan", 4))), "not a number"),
        ("<annotation><object><name>cat</name></object></annotation>", "xmin is None"),
        ("", "not well-formed"),
    ],
)
def test_malformed_xml_is_refused_whole(tmp_path, text, reason):
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "x.xml").write_text(text, encoding=encoding)
        with pytest.raises(MalformedAnnotation, match=reason):
            read_voc(tmp_path / "x.xml")


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


def test_batches_hold_one_size_and_every_image_once(tmp_path):
    sizes = [(40, 30), (80, 60), (30, 40), (41, 30), (40, 30)]
    (tmp_path / "annotation").mkdir()
    for index, size in enumerate(sizes):
        make_image(tmp_path / "val" / f"{index}.png", size=size)
        (tmp_path / "annotation" / f"{index}.xml").write_text(voc(voc_object("n01440764", (1, 1, 9, 9))))
    images = open_boxes(tmp_path).images
    Image.new("RGB", (4, 4)).save(tmp_path / "val" / "3.png")
    (tmp_path / "val" / "4.png").write_bytes(b"gone")
    batches = list(boxed_loader(images, 60, batch_size=2, workers=0))
    assert sorted(i for batch in batches for i in batch.indices) == [0, 1, 2, 3]
    assert [i for batch in batches for i, _ in batch.unreadable] == [4]
    shapes = {i: tuple(batch.images.shape[2:]) for batch in batches for i in batch.indices}
    assert shapes == {0: (60, 80), 1: (60, 80), 2: (80, 60), 3: (60, 82)}
