"""Files made to do harm: what they carry is not run, where they point is not looked, what they claim is not believed.

What each reader's own tests show is not repeated here; random damage is the matter of test_fuzz.py.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from cgc.commands.config import config_of
from cgc.data.boxes import open_boxes
from cgc.data.class_map import read_class_map
from cgc.data.class_names import read_classes
from cgc.data.coco_json import read_coco_json
from cgc.data.decode import UnreadableImage, decode_data
from cgc.data.folders import open_class_folders, open_split
from cgc.data.image_headers import header_size
from cgc.data.label_subset import read_list
from cgc.data.masks import Trimap
from cgc.data.saliency_files import MANIFEST, Manifest, read_grey
from cgc.data.shards.index import MAKING
from cgc.data.shards.writer import ShardWriter
from cgc.data.training_boxes import as_boxed_images, read_training_boxes
from cgc.errors import InputError
from cgc.report.html.content import read_summary
from cgc.report.score_files import read_scores
from tests.data.boxed_fixture import (
    coco_folder,
    coco_image,
    coco_json,
    coco_object,
    make_image,
    voc,
    voc_object,
)
from tests.data.images import image_folder
from tests.reliability.fuzz_data import EPS
from tests.reliability.fuzz_watch import refusal

FAR = "1" + "0" * 300  # a float, and no 64-bit number


def _postscript(mode: int) -> bytes:
    """9×9 px, of mode L (1) or RGB (3); and what any program might do."""
    return EPS.replace(b"%%EndComments", b'%%%%EndComments\n%%\n%%ImageData: 9 9 8 %d 0 1 1 "x"' % mode)


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow draws it with Ghostscript, if there is one: a program for a program from a stranger."""
    ran, program = tmp_path / "ran", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / "a.png"
    for mode in (1, 3):
        path.write_bytes(_postscript(mode))
        assert header_size(path) == (9, 9)
        with pytest.raises(UnreadableImage, match="PostScript"):
            decode_data(path.read_bytes(), path)
    path.write_bytes(_postscript(1))
    with pytest.raises(UnreadableImage, match="PostScript"):
        read_grey(path, (9, 9))
    with pytest.raises(ValueError, match="PostScript"):
        Trimap(path).paint(np.zeros((9, 9), dtype=bool))
    assert not ran.exists()
    with pytest.raises(OSError, match=r".*"):  # what it is kept from
        Image.open(path).load()
    assert ran.exists()


# XML and JSON


def test_an_xml_file_names_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("cat")
    make_image(tmp_path / "data" / "val" / "a.jpg")
    outside = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{tmp_path}/secret.txt">]>'
    objects = voc(voc_object("&x;", (1, 1, 5, 5)))
    (tmp_path / "data" / "annotation").mkdir()
    (tmp_path / "data" / "annotation" / "a.xml").write_text(outside + objects)
    (tmp_path / "data" / "names.txt").write_text("cat\n")
    names = tmp_path / "data" / "names.txt"
    assert "malformed annotation" in refusal(
        tmp_path / "data", lambda: open_boxes(tmp_path / "data", classes=names)
    )


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd", "a\0b"])
def test_the_file_that_an_xml_file_is_said_to_be_of_is_not_looked_for(tmp_path: Path, name: str) -> None:
    make_image(tmp_path / "val" / "a.jpg")
    head = f"<folder>..</folder><filename>{name}</filename><path>/etc/passwd</path>".replace("\0", "")
    (tmp_path / "annotation").mkdir()
    (tmp_path / "annotation" / "a.xml").write_text(voc(voc_object("cat", (1, 1, 5, 5)), head=head))
    (tmp_path / "names.txt").write_text("cat\n")
    (row,) = open_boxes(tmp_path, classes=tmp_path / "names.txt").images
    assert row.path == tmp_path / "val" / "a.jpg"


NESTED = b"[" * 200_000
ABSURD = {
    "nested": NESTED,
    "nested objects": b'{"a":' * 200_000,
    "digits": b'{"format": ' + b"9" * 10_000 + b"}",
    "not text": b'{"a": "\xff"}',
}


def _making(path: Path) -> object:
    path.rename(path.with_name(MAKING))
    images = open_split(image_folder(path.parent.parent / "images", 1), "train")
    return ShardWriter(path.parent, images, "train", shards=1)


JSON_READERS: dict[str, Callable[[Path], object]] = {
    "config": lambda path: config_of(["--config", str(path)]),
    "COCO": lambda path: read_coco_json(path, masks=True),
    "class map": lambda path: read_class_map(path, ("ant",)),
    "manifest": lambda path: Manifest.read(path.rename(path.with_name(MANIFEST)).parent),
    "summary": read_summary,
    "shards in making": _making,
}


@pytest.mark.parametrize("kind", ABSURD)
@pytest.mark.parametrize("reader", JSON_READERS)
def test_absurd_json_is_refused_in_one_line(tmp_path: Path, reader: str, kind: str) -> None:
    path = tmp_path / "folder" / "a.json"
    path.parent.mkdir()
    path.write_bytes(ABSURD[kind])
    with pytest.raises(InputError) as error:
        JSON_READERS[reader](path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("entry", ["7", "[]", '{"sha256": "x", "left_out": 5}', '{"left_out": []}'])
def test_an_odd_list_of_finished_shards_is_refused(tmp_path: Path, entry: str) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "a.json"
    path.write_text(f'{{"made": "x", "shards": {{"train-000000.tar": {entry}}}}}')
    with pytest.raises(InputError, match="not a list of finished shards"):
        _making(path)


# Names that lead elsewhere, and numbers beyond all measure

ELSEWHERE = ["../../secret.jpg", "{tmp}/secret.jpg", "x/../../secret.jpg", "a\0b.jpg"]


def _tiny(root: Path, name: str) -> Path:
    make_image(root / "val" / "images" / "a.jpg")
    rows = [f"{each}\tn01\t0\t0\t9\t9\n" for each in ("a.jpg", name)]
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("n01\n")
    return root


def _cub(root: Path, name: str) -> Path:
    make_image(root / "images" / "001.Cat" / "a.jpg")
    (root / "images.txt").write_text(f"1 001.Cat/a.jpg\n2 {name}\n")
    (root / "train_test_split.txt").write_text("1 0\n2 0\n")
    (root / "image_class_labels.txt").write_text("1 1\n2 1\n")
    (root / "bounding_boxes.txt").write_text("1 0 0 9 9\n2 0 0 9 9\n")
    return root


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize(
    ("make", "opened"),
    [(_tiny, open_boxes), (_tiny, lambda root: open_class_folders(root / "val")), (_cub, open_boxes)],
)
def test_tables_name_images_below_their_folder(
    tmp_path: Path, make: Callable[[Path, str], Path], opened: Callable[[Path], object], name: str
) -> None:
    make_image(tmp_path / "secret.jpg")
    root = make(tmp_path / "data", name.format(tmp=tmp_path))
    assert "line 2: " in refusal(root, lambda: opened(root))


def test_a_list_of_images_cannot_lead_out_of_them(tmp_path: Path) -> None:
    images = open_split(image_folder(tmp_path / "data"), "train")
    (tmp_path / "data" / "list.txt").write_text("ant/0.png\nbee/1.png\n../../secret/ant/1.png\n/etc/passwd\n")
    listing = tmp_path / "data" / "list.txt"
    assert "2 of 4 images are not in" in refusal(tmp_path / "data", lambda: read_list(listing, images))


def test_half_a_character_is_no_folder(tmp_path: Path) -> None:
    """JSON can hold what no file can be called."""
    root = coco_folder(tmp_path, coco_json([coco_image(1, "a.jpg")], [coco_object(1, 1, 3, [0, 0, 9, 9])]))
    path = root / "annotations" / "instances_val2014.json"
    content = json.loads(path.read_text())
    content["images"] += [coco_image(2, "\ud800/b.jpg"), coco_image(3, "\ud800.jpg")]
    path.write_text(json.dumps(content))
    assert len(open_boxes(root).skipped["image not on disk"]) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("beagle_1 00000000199999999 1 1", "number of its class"),
        ("beagle_1\t\t1", "number of its class"),
        ("\t1", ""),
    ],
)
def test_lists_of_pets(tmp_path: Path, line: str, said: str) -> None:
    """A number of 17 digits is no class, however many zeros it begins with: there would be a name for each before."""
    for folder in ("images", "annotations/trimaps"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "annotations" / "test.txt").write_text(line + "\n")
    message = refusal(tmp_path, lambda: open_boxes(tmp_path))
    assert "line 1: " in message
    assert said in message


def test_a_list_of_voc_s_with_an_empty_name(tmp_path: Path) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("\t1\n")
    assert "line 1: '' is no image's name" in refusal(tmp_path, lambda: open_boxes(tmp_path))


def test_a_class_map_with_an_endless_cell(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text("cat, n01\n" + "x" * 200_000 + ", n01\n")
    assert "line 2: field larger than" in refusal(tmp_path, lambda: read_class_map(path, ("n01",)))


def _far_voc(root: Path) -> None:
    (root / "annotation").mkdir()
    corners = (f"-{FAR}", 1, FAR, 5)
    (root / "annotation" / "a.xml").write_text(voc(voc_object("cat", corners)))
    make_image(root / "val" / "a.jpg")


def _far_cub(root: Path) -> None:
    _cub(root, "001.Cat/b.jpg")
    (root / "bounding_boxes.txt").write_text(f"1 0 0 {FAR} 5\n2 1e308 1 1e308 1\n")


def _far_tiny(root: Path) -> None:
    _tiny(root, "a.jpg")
    (root / "val" / "val_annotations.txt").write_text("a.jpg cat -1e300 0 1e300 4\n")
    (root / "wnids.txt").write_text("cat\n")


def _far_coco(root: Path) -> None:
    objects = [coco_object(1, 1, 3, [0, 0, 1e308, 5]), coco_object(2, 1, 3, [1e308, 0, 1e308, 1e308])]
    coco_folder(root, coco_json([coco_image(1, "a.jpg")], objects))


@pytest.mark.parametrize("make", [_far_voc, _far_cub, _far_tiny, _far_coco])
def test_boxes_beyond_all_measure_end_at_the_border(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    (tmp_path / "names.txt").write_text("cat\ndog\n001.Cat\n")
    (row,) = open_boxes(tmp_path, classes=tmp_path / "names.txt").images
    assert row.boxes.tolist() == [[0, 0, row.size[1] - 1, 4]]


@pytest.mark.parametrize("kind", ["voc", "tiny"])
def test_training_boxes_beyond_all_measure(tmp_path: Path, kind: str) -> None:
    make_image(tmp_path / "train" / "cat" / "images" / "a.jpg")
    folder = None
    if kind == "voc":
        folder = tmp_path / "xml"
        folder.mkdir()
        (folder / "a.xml").write_text(voc(voc_object("cat", (f"-{FAR}", 1, FAR, 5))))
    else:
        (tmp_path / "train" / "cat" / "cat_boxes.txt").write_text("a.jpg -1e300 0 1e300 4\n")
    images = open_split(tmp_path, "train")
    (row,) = as_boxed_images(images, read_training_boxes(images, folder)).images
    assert row.boxes.tolist() == [[0, 0, 99, 4]]


_MANY = [*(f"n{k}" for k in range(50_000)), "n49999"]  # comparing each with each takes half a minute


def _many_classes(folder: Path) -> object:
    (folder / "classes.txt").write_text("\n".join(_MANY))
    return read_classes(folder / "classes.txt")


def _many_columns(folder: Path) -> object:
    (folder / "scores.csv").write_text(",".join(["path", "class", *_MANY]))
    return read_scores(folder / "scores.csv")


def _many_categories(folder: Path) -> object:
    categories = [{"id": k, "name": name} for k, name in enumerate(_MANY)]
    content = {"images": [], "annotations": [], "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return read_coco_json(folder / "instances.json", masks=False)


@pytest.mark.parametrize("read", [_many_classes, _many_columns, _many_categories])
def test_a_name_twice_among_many_is_found_soon(read: Callable[[Path], object], tmp_path: Path) -> None:
    assert "'n49999'" in refusal(tmp_path, lambda: read(tmp_path))
