"""The network that a training run gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cgc.commands.train_options import parse
from cgc.commands.train_presets import PRESETS
from cgc.commands.training_network import TrainedNetwork
from cgc.models.weight_gradients import Conv2d

CPU = torch.device("cpu")


@pytest.mark.parametrize(("more", "layers"), [([], 4), (["--compile"], 0)])
def test_on_the_cpu_weight_gradients_are_matrix_products(
    more: list[str], layers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    options = parse([str(tmp_path), "-a", "resnet_tiny", "--save_dir", str(tmp_path), *more], PRESETS["cgc"])
    model = TrainedNetwork(options, CPU).build(["cat", "dog"], 512, 1, lambda line: None)
    assert sum(isinstance(part, Conv2d) for part in model.modules()) == layers
    weights = [p for p in model.parameters() if p.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
