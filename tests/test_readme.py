"""Every Python example of README and docs runs as it stands, on drawn images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cgc.data.shapes import write_shapes
from tests.documents import DOCUMENTS, ROOT, Block, blocks, name_of

README, EVALUATION, TUTORIAL = (
    ROOT / "README.md",
    ROOT / "docs" / "evaluation.md",
    ROOT / "docs" / "tutorial.md",
)


def examples(document: Path) -> Iterator[Block]:
    yield from (block for block in blocks(document) if block.language == "python")


def only_example(document: Path) -> str:
    (block,) = examples(document)
    return block.text


def run(document: Path, text: str) -> dict[str, object]:
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(compile(text, document.name, "exec"), names)
    return names


def test_the_example_of_the_readme_runs_and_reaches_every_weight() -> None:
    names = run(README, only_example(README).replace("224", "64"))
    loss, model = names["loss"], names["model"]
    assert isinstance(loss, torch.Tensor)
    assert isinstance(model, torch.nn.Module)
    assert 0 < loss.item() < 10
    grads = [p.grad for name, p in model.named_parameters() if "bias" not in name or "bn" in name]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


def test_the_example_of_the_evaluation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run(EVALUATION, only_example(EVALUATION))
    ch, hit, spg, *areas = re.sub(r"tensor\(\[|\]\)|,", " ", capsys.readouterr().out).split()
    assert 0.1 < float(ch) < 0.6
    assert hit in ("True", "False")
    assert float(ch) < float(spg) < 1
    assert all(0 < float(area) < 1 for area in areas if area[0].isdigit())
    assert len(areas) >= 2


def test_the_training_loop_of_the_tutorial_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In at most twenty lines, as it promises; what it trains differs from what it starts from, everywhere."""
    text = only_example(TUTORIAL)
    assert sum(bool(line.strip()) for line in text.splitlines()) <= 20
    write_shapes(tmp_path / "demo" / "data", train_per_class=2, val_per_class=1)
    monkeypatch.chdir(tmp_path)
    names = run(TUTORIAL, text)
    loss, model, optimizer = names["loss"], names["model"], names["optimizer"]
    assert isinstance(loss, torch.Tensor)
    assert isinstance(model, torch.nn.Module)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert 0 < loss.item() < 20
    moved = [optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
    assert all(torch.isfinite(each).all() and each.any() for each in moved)


def test_there_is_no_other_example() -> None:
    """One that is added needs a test of its own."""
    found = {name_of(document) for document in DOCUMENTS if any(examples(document))}
    assert found == {name_of(document) for document in (README, EVALUATION, TUTORIAL)}
