"""The visualiser: panels where they belong, classes and images as they are named, and the transform's figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.commands.show import find_images, main
from cgc.errors import InputError
from cgc.report.panels import GAP, Tile, figure, heat_tiles, save_figure
from tests.commands.runs import error_line
from tests.commands.test_report import save_model
from tests.data.images import save_photograph

SMALL = ["--input_resize", "64", "--image-size", "64", "--side", "50", "--device", "cpu"]


@pytest.fixture
def images(tmp_path):
    for i, name in enumerate(("a.png", "b/c.jpg", "b/d/e.png")):
        save_photograph(tmp_path / "images" / name, 40, 40, i)
    (tmp_path / "images" / "notes.md").write_text("no image")
    return tmp_path / "images"


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "m.pth")


def test_a_row_per_image_and_two_panels_per_model_and_class(images, model, tmp_path, capsys):
    other = save_model(tmp_path / "run" / "checkpoint_002.pth.tar", 1)
    (other.parent / "args.json").write_text('{"classes": ["cat", "dog"]}')
    listing = tmp_path / "names.txt"
    listing.write_text("cat\ndog\n")
    out = tmp_path / "f.png"
    arguments = ["--images", str(images), "--out", str(out), "--class-names", str(listing), *SMALL]
    assert main([str(model), str(other.parent), *arguments]) == 0
    assert "3 rows" in capsys.readouterr().out
    width, height = Image.open(out).size
    assert width == 5 * 50 + 6 * GAP
    assert main([str(model), str(other), *arguments, "--classes", "dog", "0", "predicted"]) == 0
    assert Image.open(out).size == (13 * 50 + 14 * GAP, height)
    assert main([str(model), *arguments, "--limit", "1", "--out", str(tmp_path / "f.pdf")]) == 0
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")
    assert "1 of 3 images" in capsys.readouterr().err


def test_the_figure_of_the_transform(images, model, tmp_path):
    out = tmp_path / "t.png"
    arguments = [str(model), "--transform", "--images", str(images / "a.png"), *SMALL]
    assert main([*arguments, "--out", str(out)]) == 0
    first = np.asarray(Image.open(out))
    assert first.shape[1] == 5 * 50 + 6 * GAP
    assert main([*arguments, "--out", str(out), "--seed", "0"]) == 0
    assert (np.asarray(Image.open(out)) == first).all()
    assert main([*arguments, "--out", str(out), "--seed", "1"]) == 0
    assert (np.asarray(Image.open(out)) != first).any()


def test_images_of_every_kind(images, tmp_path):
    assert [path.name for path in find_images([images])] == ["a.png", "c.jpg", "e.png"]
    listing = tmp_path / "images" / "list.txt"
    listing.write_text("b/c.jpg\n\na.png\n")
    assert find_images([listing, images / "a.png"]) == [
        images / "b/c.jpg",
        images / "a.png",
        images / "a.png",
    ]
    (tmp_path / "empty").mkdir()
    for path, text in ((tmp_path / "empty", "no images in it"), (tmp_path / "none", "no such file")):
        with pytest.raises(InputError, match=text):
            find_images([path])


def test_what_cannot_be_used_is_one_line(images, model, tmp_path, capsys):
    base = ["--images", str(images), *SMALL]
    out = ["--out", str(tmp_path / "f.png")]
    listing = tmp_path / "three.txt"
    listing.write_text("a\nb\nc\n")
    cases = {
        "has no such class": [str(model), *base, *out, "--classes", "cat"],
        "3 names": [str(model), *base, *out, "--class-names", str(listing)],
        "must be a .png or .pdf": [str(model), *base, "--out", str(tmp_path / "f.gif")],
        "2 names for 1 checkpoints": [str(model), *base, *out, "--names", "a", "b"],
    }
    for text, arguments in cases.items():
        assert main(arguments) == 2
        assert text in error_line(capsys.readouterr().err)
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert main([str(model), "--images", str(tmp_path / "bad.png"), *SMALL, *out]) == 1
    assert "not one of the images" in error_line(capsys.readouterr().err, "failed")
    assert not (tmp_path / "f.png").exists()


def test_masks_are_hot_where_the_map_is(tmp_path):
    image = Image.new("RGB", (40, 20), "white")
    mask, overlay = heat_tiles(image, torch.tensor([[0.0, 0.0, 0.0, 1.0]]), ("one",))
    bright = np.asarray(mask.picture).astype(int).sum(axis=2)
    assert bright[:, :8].max() < 30
    assert bright[:, 36:].min() > 500
    assert overlay.picture.size == mask.picture.size == (40, 20)
    zero, _ = heat_tiles(image, torch.zeros(2, 2), ())
    assert np.asarray(zero.picture).max() < 10
    drawn = figure([[Tile(image), mask], [overlay]])
    assert drawn.size == (2 * 40 + 3 * GAP, 2 * 20 + 15 + 5 * GAP)
    for wrong in ([], [[]]):
        with pytest.raises(ValueError, match="at least one"):
            figure(wrong)
    save_figure(tmp_path / "p.pdf", [drawn, drawn])
    assert (tmp_path / "p.pdf").read_bytes().count(b"/Type /Page\n") == 2
