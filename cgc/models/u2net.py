"""U²-Net and its small form U²-NetP: which pixels of an image stand out.

Shapes: N images, H×W pixels (any size), C channels.

Source: U²-Net: Going Deeper with Nested U-Structure for Salient Object Detection (Pattern Recognition 2020). Names and
order of the layers are those of the official ``u2net.pth`` and ``u2netp.pth``, which load by key.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgc.errors import InputError
from cgc.models.checkpoint_layouts import Checkpoint, match, mismatch, read_checkpoint
from cgc.models.key_names import KeyMatch
from cgc.models.meta import OnMeta

U2NetSize = Literal["u2net", "u2netp"]


class _Stage(NamedTuple):
    """Channels in, inside and out of a block; ``levels`` 0 is the block without pools."""

    levels: int
    channels: int
    inside: int
    out: int


_LEVELS = (7, 6, 5, 4, 0, 0)  # of the six stages; the decoder's five mirror the first five
_CHANNELS: dict[U2NetSize, tuple[tuple[int, ...], ...]] = {
    # Out of the encoder's stages, inside them, inside the decoder's stages (the first stage first).
    "u2net": ((64, 128, 256, 512, 512, 512), (32, 32, 64, 128, 256, 256), (16, 32, 64, 128, 256)),
    "u2netp": ((64,) * 6, (16,) * 6, (16,) * 5),
}
_DEPTH = len(_LEVELS)


class ResidualUBlock(nn.ModuleDict):
    """RSU-L: an input convolution, a U-Net of L levels on its output, and the sum of the two (paper, section 3.1).

    Levels but the lowest two are followed by a 2×2 pool; the lowest convolution has dilation 2. ``levels`` 0 is RSU-4F,
    which has four levels and no pools but growing dilations. (N, C, H, W) to (N, out, H, W).
    """

    def __init__(self, levels: int, channels: int, inside: int, out: int) -> None:
        self.pools = max(levels - 2, 0)
        dilations = [*[1] * (levels - 1), 2] if levels else [1, 2, 4, 8]
        self.levels = len(dilations)
        convolutions = {"rebnconvin": _convolution(channels, out)}
        for level, dilation in enumerate(dilations, start=1):
            convolutions[f"rebnconv{level}"] = _convolution(out if level == 1 else inside, inside, dilation)
        for level in range(self.levels - 1, 0, -1):
            dilation = 1 if levels else dilations[level - 1]
            convolutions[f"rebnconv{level}d"] = _convolution(
                2 * inside, out if level == 1 else inside, dilation
            )
        super().__init__(convolutions)

    def forward(self, x: Tensor) -> Tensor:
        x = self["rebnconvin"](x)
        y, skips = x, []
        for level in range(1, self.levels + 1):
            y = self[f"rebnconv{level}"](y)
            skips.append(y)
            y = _halved(y) if level <= self.pools else y
        y = skips.pop()
        for level in range(self.levels - 1, 0, -1):
            y = self[f"rebnconv{level}d"](_joined(y, skips.pop()))
        return y + x


class U2Net(nn.Module):
    """The saliency network in one of its two sizes; images in, normalised as for ImageNet, probabilities out."""

    def __init__(self, size: U2NetSize = "u2net") -> None:
        super().__init__()
        self.size: U2NetSize = size
        out, inside, inside_decoder = _CHANNELS[size]
        # Seeded weights depend on the order: stages down, stages up, sides, fusion, as the official keys stand.
        for i in range(_DEPTH):
            self.add_module(
                f"stage{i + 1}", ResidualUBlock(_LEVELS[i], out[i - 1] if i else 3, inside[i], out[i])
            )
        # A stage of the decoder gives what the stage above it takes: as many channels as that one's skip.
        decoded = [out[max(i - 1, 0)] for i in range(_DEPTH - 1)]
        for i in range(_DEPTH - 2, -1, -1):
            self.add_module(
                f"stage{i + 1}d", ResidualUBlock(_LEVELS[i], 2 * out[i], inside_decoder[i], decoded[i])
            )
        for i, channels in enumerate([*decoded, out[-1]], start=1):
            self.add_module(f"side{i}", nn.Conv2d(channels, 1, 3, padding=1))
        self.outconv = nn.Conv2d(_DEPTH, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to (N, 7, H, W) in [0, 1]: the fused map, then those of the six sides."""
        y, skips = images, []
        for i in range(1, _DEPTH + 1):
            y = self.get_submodule(f"stage{i}")(y)
            skips.append(y)
            y = _halved(y) if i < _DEPTH else y
        decoded = [skips.pop()]
        for i in range(_DEPTH - 1, 0, -1):
            decoded.append(self.get_submodule(f"stage{i}d")(_joined(decoded[-1], skips.pop())))
        sides = [
            _resized(self.get_submodule(f"side{i}")(y), images)
            for i, y in enumerate(reversed(decoded), start=1)
        ]
        sides_N6HW = torch.cat(sides, dim=1)
        return torch.cat([self.outconv(sides_N6HW), sides_N6HW], dim=1).sigmoid()

    def saliency(self, images: Tensor) -> Tensor:
        """The fused map (N, H, W) in [0, 1], each scaled so that its values reach from 0 to 1; a flat map is all 0."""
        maps_NHW = self(images)[:, 0].float()
        low_N11, high_N11 = maps_NHW.amin((1, 2), keepdim=True), maps_NHW.amax((1, 2), keepdim=True)
        range_N11 = high_N11 - low_N11
        return (maps_NHW - low_N11) / torch.where(range_N11 > 0, range_N11, 1)


def load_u2net(path: str | Path) -> U2Net:
    """The network that a file holds the weights of, frozen, in eval mode, on the CPU; the weights tell its size.

    Raises InputError for a file that is no checkpoint, holds another network, lacks a key, has one too many or one of
    another shape, or has weights that are not finite.
    """
    file = read_checkpoint(path)
    network, fit = _nearest(file)
    if not fit.fits:
        raise InputError(f"{path} does not fit {network.size}: {mismatch(fit)}")
    odd = [key for key in fit.found.values() if not file.weights[key].isfinite().all()]
    if odd:
        raise InputError(f"{path} has weights that are not finite, in {len(odd)} keys ({odd[0]}, …)")
    weights = {name: file.weights[key] for name, key in fit.found.items()}
    weights = {name: w.float() if w.is_floating_point() else w for name, w in weights.items()}
    network.load_state_dict(weights, strict=False, assign=True)
    return network.requires_grad_(False).eval()


def weights_digest(network: nn.Module) -> str:
    """64 bits, in hexadecimal, of all that decides about a network's output in eval mode.

    Equal for equal weights, however they are stored in a file.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _nearest(file: Checkpoint) -> tuple[U2Net, KeyMatch]:
    """The size that more of a file's weights fit, without values; raises InputError where few fit either."""
    fits = [(_layout(size), match(_layout(size), file)) for size in _CHANNELS]
    network, fit = max(fits, key=lambda each: len(each[1].found))
    if len(fit.found) < len(network.state_dict()) / 2:
        raise InputError(f"{file.path} does not hold U²-Net, a saliency network (u2net.pth or u2netp.pth)")
    return copy.deepcopy(network), fit


@functools.cache
def _layout(size: U2NetSize) -> U2Net:
    with OnMeta(), torch.random.fork_rng(devices=[]):
        return U2Net(size)


def _convolution(channels: int, out: int, dilation: int = 1) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv_s1"] = nn.Conv2d(channels, out, 3, padding=dilation, dilation=dilation)
    layers["bn_s1"] = nn.BatchNorm2d(out)
    layers["relu_s1"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def _halved(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2, ceil_mode=True)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def _joined(below: Tensor, skip: Tensor) -> Tensor:
    """What comes from below, brought to the skip's size, then the skip."""
    return torch.cat([_resized(below, skip), skip], dim=1)
