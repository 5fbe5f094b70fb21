"""Networks whose heatmaps can be worked out by hand: a ResNet that passes on nothing but brightness.

Every convolution is zero but for one path: the stem averages the colours of one pixel in 4 (its pool takes the largest
of neighbours), every stage hands channel 0 on, the classifier reads channel 0 with weight 1, for class 0 with 2. So a
heatmap is proportional to the brightness of the normalised image above zero, sampled every 32 pixels, whatever the
class, and class 0 is always predicted, the surer the brighter the image is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn

STRIDE = 32


@torch.no_grad()
def bright_resnet(arch: str, num_classes: int) -> nn.Module:
    """A torchvision ResNet with the weights described above."""
    network = torchvision.models.get_model(arch, weights=None, num_classes=num_classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.zero_()
    for module in network.modules():
        if hasattr(module, "downsample"):
            last = module.bn3 if hasattr(module, "bn3") else module.bn2
            last.weight.zero_()  # a block is its shortcut
            if module.downsample is not None:
                module.downsample[0].weight[0, 0, 0, 0] = 1
    network.conv1.weight[0, :, 3, 3] = 1 / 3
    network.fc.weight.zero_()
    network.fc.weight[:, 0] = 1
    network.fc.weight[0, 0] = 2
    network.fc.bias.fill_(-5)
    network.fc.bias[0] = 1
    return network.eval()


def save_released(network: nn.Module, path: Path, arch: str | None, head: str = "fc") -> Path:
    """A checkpoint in the released layout, the classifier under the name ``head``."""
    state = {f"module.{k.replace('fc.', head + '.', 1)}": v for k, v in network.state_dict().items()}
    content = {"epoch": 90, "state_dict": state, "best_acc1": torch.tensor(1.0), "optimizer": {}}
    torch.save(content | ({"arch": arch} if arch else {}), path)
    return path


def left_white(path: Path, columns: int, size: tuple[int, int] = (448, 448)) -> None:
    """An image (height, width) whose first columns are white and whose others are black.

    With ``columns`` of 32·k + 16 the map at 448 px is 1 in its first k + 1 columns and 0 in the others.
    """
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    pixels[:, :columns] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")  # without loss, whatever the suffix


def profile(columns: int, width: int = 448) -> np.ndarray:
    """Mass of the upsampled map in each pixel column, sums to 1; the map as in ``left_white``, all rows alike."""
    cells = columns // STRIDE + 1
    position = np.clip((np.arange(width) + 0.5) / STRIDE - 0.5, 0, width // STRIDE - 1)
    value = np.clip(cells - position, 0, 1)
    return value / value.sum()
