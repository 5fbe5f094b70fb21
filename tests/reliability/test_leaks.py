"""Long work holds on to no more than short work. `python -m tests.reliability.leaks` takes 1,000 steps and images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cgc.gradcam import GradCAMModel
from cgc.models.backbones import build_backbone
from tests.reliability.leaks import Held, both, held, hooks_of


def grows(found: list[Held], megabytes: float) -> bool:
    """From the second fifth on, when caches are full."""
    first, last = found[1], found[-1]
    return (
        last.megabytes - first.megabytes > megabytes or last.files > first.files or last.hooks > first.hooks
    )


@pytest.mark.slow
def test_a_thousand_steps_and_images(tmp_path: Path) -> None:
    trained, evaluated = both(tmp_path, steps=1000, images=1000)
    assert not grows(trained, 20)
    assert trained[-1].tensors == trained[1].tensors
    assert not grows(evaluated, 20)


@pytest.mark.slow
def test_what_is_counted_would_show() -> None:
    """A hook, a tensor and a file that stay behind are seen."""
    before = held()
    kept = nn.Linear(2, 2)
    kept.register_forward_hook(lambda *_: None)
    with Path(__file__).open() as _:
        after = held()
    assert (after.hooks - before.hooks, after.files - before.files) == (1, 1)
    assert after.tensors - before.tensors == 2
    assert grows([before, before, after], 1e9)


@pytest.mark.parametrize("layer", [None, "layer2"])
def test_a_model_that_was_explained_has_no_hooks_left(layer: str | None) -> None:
    model = GradCAMModel(build_backbone("resnet_tiny", 3), layer).eval()
    hooks = hooks_of(model.modules())
    logits, features = model(torch.randn(2, 3, 32, 32))
    model.heatmaps(logits, features)
    assert hooks_of(model.modules()) == hooks
