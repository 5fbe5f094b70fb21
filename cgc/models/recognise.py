"""Which architecture a file's weights belong to, from their names and shapes.

Every architecture of ours and torchvision's has another set of names and shapes, its classifier left aside. timm's are
not looked at: there are over a thousand.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cgc.models.backbones import architectures, build_backbone
from cgc.models.key_names import KeyMatch, match_keys
from cgc.models.meta import OnMeta
from cgc.models.timm_models import PREFIX

# The first key of an architecture, by the beginning of its name: a file without it needs no closer look. One that is
# not listed is always tried.
_FIRST_KEYS = {
    "conv1.weight": ("resnet", "resnext", "wide_resnet"),
    "features.0.weight": ("alexnet", "squeezenet", "vgg"),
    "features.0.0.weight": ("convnext", "efficientnet", "mobilenet"),
    "features.conv0.weight": ("densenet",),
    "stem.0.weight": ("regnet",),
    "layers.0.weight": ("mnasnet",),
    "conv1.0.weight": ("shufflenet",),
    "conv1.conv.weight": ("googlenet",),
    "Conv2d_1a_3x3.conv.weight": ("inception",),
}
_U2NET_SIZES = {32: "u2net", 16: "u2netp"}  # channels inside the first block
_U2NET_MODULES = {
    *(f"stage{i}" for i in range(1, 7)),
    *(f"stage{i}d" for i in range(1, 6)),
    *(f"side{i}" for i in range(1, 7)),
    "outconv",
}


@dataclass(frozen=True)
class Recognised:
    """Architectures whose trunk the file holds, and the one that comes nearest where there are none."""

    candidates: tuple[str, ...]
    nearest: str | None = None
    share: tuple[int, int] = (0, 0)  # keys of the nearest one that agree, of how many

    @property
    def arch(self) -> str | None:
        return self.candidates[0] if len(self.candidates) == 1 else None


def recognise(weights: Mapping[str, Tensor]) -> Recognised:
    """Compare the names and shapes of ``weights`` (under plain names) with every architecture's.

    A classifier with other classes, none at all or one that only SwAV has does not matter.
    """
    fits: dict[str, KeyMatch] = {}
    for arch in architectures():
        first = _first_key(arch)
        if first is not None and not any(k == first or k.endswith(f".{first}") for k in weights):
            continue
        try:
            fits[arch] = match_keys(layout(arch), weights)
        except ValueError:
            continue  # several networks in one file: not for us to choose
    whole = tuple(arch for arch, fit in fits.items() if fit.trunk_fits)
    # Where two trunks were alike, the file's own classifier would decide.
    with_head = tuple(arch for arch in whole if fits[arch].file_classes is not None)
    if whole or not fits:
        return Recognised(with_head or whole)
    nearest = max(fits, key=lambda arch: len(fits[arch].agreeing) / len(layout(arch)))
    return Recognised((), nearest, (len(fits[nearest].agreeing), len(layout(nearest))))


def known(arch: str | None) -> bool:
    """Whether a file's name for its architecture is one that can be built here."""
    return arch is not None and (arch in architectures() or arch.startswith(PREFIX))


def u2net_size(weights: Mapping[str, Tensor]) -> str | None:
    """``u2net`` or ``u2netp`` if these are the weights of that saliency network, which is no classifier."""
    if {name.split(".")[0] for name in weights} != _U2NET_MODULES:
        return None
    first = weights.get("stage1.rebnconv1.conv_s1.weight")
    return None if first is None else _U2NET_SIZES.get(first.shape[0])


@functools.cache
def layout(arch: str) -> Mapping[str, Tensor]:
    """The state dict of an architecture on the meta device, without values."""
    with OnMeta(), torch.random.fork_rng(devices=[]):
        return dict(build_backbone(arch, 1000).state_dict())


def _first_key(arch: str) -> str | None:
    return next((key for key, names in _FIRST_KEYS.items() if arch.startswith(names)), None)
