"""No figure that the code cannot draw again: each is shown in a document, with the command that draws it beside it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image

from cgc.data.shapes import CLASSES, write_shapes
from cgc.models.backbones import build_backbone
from cgc.spatial import SpatialTransform
from tests.commands.runs import error_line
from tests.documents import DOCUMENTS, ROOT, name_of, sections

IMAGES = ROOT / "docs" / "images"
# The command that draws a figure, the program behind it, and the name of the file that it writes.
DRAWN_BY = {
    "demo.png": ("python -m cgc demo", "cgc/demo.py", "heatmaps.png"),
    "tiny-imagenet.png": (
        "python examples/compare_on_tiny_imagenet.py DATA --out",
        "examples/compare_on_tiny_imagenet.py",
        "chart.png",
    ),
    "few-labels.png": (
        "python examples/compare_on_tiny_imagenet.py DATA --labels",
        "examples/compare_on_tiny_imagenet.py",
        "chart.png",
    ),
    "tutorial-cam.png": (
        "python examples/tutorial_figures.py",
        "examples/tutorial_figures.py",
        "tutorial-cam.png",
    ),
    "tutorial-contrast.png": (
        "python examples/tutorial_figures.py",
        "examples/tutorial_figures.py",
        "tutorial-contrast.png",
    ),
    "tutorial-panels.png": ("python -m cgc show", "cgc/commands/show.py", "--out"),
    "tutorial-transform.png": ("python -m cgc show", "cgc/commands/show.py", "--transform"),
}


def shown(name: str) -> list[str]:
    """The sections, as text, that show a figure."""
    found = []
    for document in DOCUMENTS:
        lines = document.read_text(encoding="utf-8").splitlines()
        for first, last in sections(document):
            text = "\n".join(lines[first - 1 : last])
            if re.search(rf"!\[[^\]]+\]\([^)]*{re.escape(name)}\)", text):
                found.append(text)
    return found


def test_every_figure_is_known() -> None:
    assert {path.name for path in IMAGES.iterdir()} == set(DRAWN_BY)


@pytest.mark.parametrize("name", DRAWN_BY)
def test_the_command_stands_beside_it_and_writes_it(name: str) -> None:
    command, program, written = DRAWN_BY[name]
    assert any(command in text and written in text for text in shown(name)), f"{name}: {command} … {written}"
    assert written in (ROOT / program).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(IMAGES.iterdir()), ids=lambda path: path.name)
def test_it_is_a_small_picture(path: Path) -> None:
    with Image.open(path) as picture:
        assert max(picture.size) <= 1600
    assert path.stat().st_size < 500_000


def test_every_picture_of_the_documents_is_one_of_them() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).resolve().parent == IMAGES, f"{name_of(document)}: {target}"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder such as the demo leaves, with untrained models."""
    folder = tmp_path_factory.mktemp("demo")
    write_shapes(folder / "data", train_per_class=1, val_per_class=1)
    for seed, name in enumerate(("baseline", "cgc")):
        torch.manual_seed(seed)
        weights = build_backbone("resnet_tiny", len(CLASSES)).state_dict()
        (folder / "runs" / name).mkdir(parents=True)
        file = {"epoch": 1, "arch": "resnet_tiny", "state_dict": weights, "best_acc1": 0.0, "optimizer": {}}
        torch.save(file, folder / "runs" / name / "checkpoint_001.pth.tar")
    return folder


def test_the_figures_of_the_tutorial(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / "examples" / "tutorial_figures.py"))["main"]
    assert main([str(demo), "--out", str(tmp_path)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:3]] == ["baseline", "CGC"]
    for name in ("tutorial-cam.png", "tutorial-contrast.png"):
        with Image.open(tmp_path / name) as drawn:
            assert len(drawn.convert("RGB").getcolors(drawn.width * drawn.height) or []) > 20
    with Image.open(tmp_path / "tutorial-cam.png") as drawn, Image.open(IMAGES / "tutorial-cam.png") as ours:
        assert drawn.size == ours.size
    for wrong in ([str(tmp_path / "none")], [str(demo), "--out", str(tmp_path / "none")]):
        assert main(wrong) == 2
        assert "none" in error_line(capsys.readouterr().err)


def test_the_matrix_is_what_the_loss_compares(demo: Path) -> None:
    """The loss worked out from the matrix, masks at full size, is the one of the feature grid."""
    names = runpy.run_path(str(ROOT / "examples" / "tutorial_figures.py"))
    torch.manual_seed(0)
    model = names["load_model"](None, demo / "runs" / "cgc" / "checkpoint_001.pth.tar", len(CLASSES))
    with torch.no_grad():
        products, loss = names["compared"](model, torch.randn(5, 3, 64, 64), SpatialTransform.sample(5, 64))
    scores = products / names["TEMPERATURE"]
    assert loss == pytest.approx(float((scores.logsumexp(1) - scores.diagonal()).mean()), rel=1e-4)
