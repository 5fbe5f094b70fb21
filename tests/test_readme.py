"""The README's Python example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def test_the_python_example_runs_and_reaches_every_weight() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(compile(example.replace("224", "64"), "README.md", "exec"), names)
    loss, model = names["loss"], names["model"]
    assert isinstance(loss, torch.Tensor)
    assert isinstance(model, torch.nn.Module)
    assert 0 < loss.item() < 10
    grads = [p.grad for name, p in model.named_parameters() if "bias" not in name or "bn" in name]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


def test_every_linked_file_exists() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_example_of_the_evaluation_runs(capsys) -> None:
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8"), re.S
    )
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(compile(example, "evaluation.md", "exec"), names)
    ch, hit, spg, *areas = re.sub(r"tensor\(\[|\]\)|,", " ", capsys.readouterr().out).split()
    assert 0.1 < float(ch) < 0.6
    assert hit in ("True", "False")
    assert float(ch) < float(spg) < 1
    assert all(0 < float(area) < 1 for area in areas if area[0].isdigit())
    assert len(areas) >= 2
