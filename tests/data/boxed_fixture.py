"""A hand-made folder with VOC annotations whose scores are worked out in the tests that use it.

All images are 100×100. The tests' map puts its weight on the left: 1 over columns 0..24, falling evenly to 0 at 75.
"""

from __future__ import annotations

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
