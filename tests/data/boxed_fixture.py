"""A hand-made folder with VOC annotations whose scores are worked out in the tests that use it.

All images are 100×100. The tests' map puts its weight on the left: 1 over columns 0..24, falling evenly to 0 at 75.
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

LEFT = (1, 1, 50, 100)
FIRST_QUARTER = (1, 1, 25, 100)
LAST_QUARTER = (76, 1, 100, 100)


def voc(*objects: str, head: str = "") -> str:
    """A VOC file."""
    return f"<annotation>{head}{''.join(objects)}</annotation>"


def voc_object(name: str, box: tuple[object, ...], difficult: int = 0) -> str:
    """One object; the box 1-based and inclusive as in the format."""
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inner = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{inner}</bndbox></object>"


def make_image(path: Path, colour: str = "white", size: tuple[int, int] = (100, 100)) -> None:
    """A plain image, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, format="PNG" if path.suffix == ".png" else "JPEG")


def scored_folder(root: Path) -> Path:
    """Two cats, three dogs (one difficult, one black image), and three files that cannot be scored."""
    xml = {
        "a one box": voc(voc_object("cat", LEFT), head="<size><width>7</width></size>"),
        "b": voc(voc_object("cat", FIRST_QUARTER), voc_object("cat", LAST_QUARTER, difficult=1)),
        "c": voc(voc_object("wild dog", LAST_QUARTER, difficult=1)),
        "d": voc(voc_object("wild dog", LEFT)),
        "e": voc(voc_object("wild dog", (75.5, "1.0", 100.9, 99.2))),
        "f": "<annotation><object>",
        "g": voc(voc_object("cat", LEFT)),
    }
    (root / "annotation").mkdir(parents=True)
    for name, text in xml.items():
        (root / "annotation" / f"{name}.xml").write_text(text)
        make_image(root / "val" / f"{name}.JPEG", "black" if name == "d" else "white")
    (root / "val" / "g.JPEG").write_bytes(b"no image")
    make_image(root / "val" / "h.JPEG")
    (root / "names.txt").write_text("cat\nwild dog\n")
    return root


def coco_json(
    images: list[object], annotations: list[object], categories: dict[int, str] | None = None
) -> dict[str, object]:
    """COCO's JSON; categories by id, a cat and a dog where none are given."""
    named = (categories or {7: "dog", 3: "cat"}).items()
    return {
        "info": {"year": 2014},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": key, "name": name, "supercategory": "x"} for key, name in named],
    }


def coco_image(key: object, name: object, size: tuple[object, object] = (40, 30)) -> dict[str, object]:
    """An entry of `images`, (width, height)."""
    return {"id": key, "file_name": name, "width": size[0], "height": size[1], "license": 1}


def coco_object(
    key: int, image: object, category: object, box: object, segmentation: object = None
) -> object:
    """An entry of `annotations`."""
    entry = {"id": key, "image_id": image, "category_id": category, "bbox": box, "area": 1.5, "iscrowd": 0}
    return entry if segmentation is None else entry | {"segmentation": segmentation}


def coco_folder(root: Path, content: object, *, images: str = "val2014", year: int = 2014) -> Path:
    """`annotations/instances_val{year}.json` and white images 40×30 for all that it lists."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_val{year}.json").write_text(json.dumps(content))
    assert isinstance(content, dict)
    for entry in content["images"]:
        make_image(root / images / entry["file_name"], size=(40, 30))
    return root
