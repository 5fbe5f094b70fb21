"""What one training step computes, sends and reads: counted from the network and the method, nothing measured.

Shapes: n images of one GPU, N images of all GPUs whose negatives are shared, S image side, h×w feature grid, C
channels.
A floating point operation (FLOP) is a multiplication or an addition: a multiply-add counts as two.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cgc.gradcam_probe import find_target_layer
from cgc.models.backbones import build_backbone
from cgc.models.meta import OnMeta

MethodName = Literal["baseline", "cgc", "sgc", "grid", "semi-cgc", "semi-sgc"]

TRAINING = 3  # forward and backward cost three forwards: gradients of inputs and of weights are one each
_FLOAT = 4  # bytes; gradients and maps are exchanged in float32 whatever the precision of the step


@dataclass(frozen=True)
class Passes:
    """What a method does for each labelled image: trunk passes at S and at 2S px, images to decode, its contrast."""

    views: int
    composites: int = 0
    decoded: int = 1
    contrast: Literal["none", "cgc", "sgc"] = "none"


# The 1 % methods see as many unlabelled images as labelled ones: one labelled view and two unlabelled ones.
METHODS: Mapping[MethodName, Passes] = {
    "baseline": Passes(1),
    "cgc": Passes(3, contrast="cgc"),
    "sgc": Passes(3, contrast="sgc"),
    "grid": Passes(1, composites=1),
    "semi-cgc": Passes(3, decoded=2, contrast="cgc"),
    "semi-sgc": Passes(3, decoded=2, contrast="sgc"),
}


@dataclass(frozen=True)
class Network:
    """A classifier at one image size. FLOPs are those of one image, forward; ``layers`` counts modules that compute."""

    arch: str
    image_size: int
    flops: int
    composite_flops: int
    parameters: int
    layers: int
    channels: int
    grid: tuple[int, int]


@functools.lru_cache(maxsize=32)
def count_network(arch: str, image_size: int = 224, classes: int = 1000) -> Network:
    """Counted on the meta device: no memory, no arithmetic, convolutions and matrix products only.

    Raises InputError for an unknown architecture, ValueError for one without a feature grid.
    """
    with OnMeta(), torch.random.fork_rng(devices=[]):
        backbone = build_backbone(arch, classes)
    backbone.eval()
    target = find_target_layer(backbone)
    flops, features = _forward_flops(backbone, target, image_size)
    composite_flops, _ = _forward_flops(backbone, target, 2 * image_size)
    return Network(
        arch,
        image_size,
        flops,
        composite_flops,
        sum(p.numel() for p in backbone.parameters()),
        sum(1 for module in backbone.modules() if not any(module.children())),
        features.shape[1],
        (features.shape[2], features.shape[3]),
    )


def _forward_flops(backbone: nn.Module, target: str, size: int) -> tuple[int, Tensor]:
    """FLOPs of one image, and the target layer's output."""
    caught: list[Tensor] = []
    hook = backbone.get_submodule(target).register_forward_hook(lambda m, args, output: caught.append(output))
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            backbone(torch.empty(1, 3, size, size, device="meta"))
    finally:
        hook.remove()
    return int(counter.get_total_flops()), caught[-1]


@dataclass(frozen=True)
class StepCounts:
    """One step of one GPU. Bytes are what the GPU sends; FLOPs are forward and backward together.

    ``negatives_bytes``: memory that the contrast takes because of the other GPUs' images and its own.
    """

    network_flops: float
    contrast_flops: float  # heatmaps and loss, float32
    layers: int  # modules that run, each forward and backward
    gradient_bytes: float
    gathered_bytes: float
    negatives_bytes: float
    decoded: float


def count_step(
    method: MethodName, network: Network, images: float, gpus: int = 1, *, gathered: bool = True
) -> StepCounts:
    """The step of a GPU that has ``images`` labelled images; with ``gathered`` negatives are those of all GPUs.

    Raises ValueError for no image or no GPU.
    """
    if not images > 0 or gpus < 1:
        raise ValueError(f"a step needs images > 0 and gpus >= 1, got {images} and {gpus}")
    passes = METHODS[method]
    shared = gpus if gathered else 1
    contrast = passes.contrast != "none"
    flops = images * (passes.views * network.flops + passes.composites * network.composite_flops)
    maps = 2 * 2 * images * network.channels * network.grid[0] * network.grid[1]  # of two views
    products = _contrast_flops(passes.contrast, network, images, images * shared) if contrast else 0
    has_maps = contrast or passes.composites
    return StepCounts(
        network_flops=TRAINING * flops,
        contrast_flops=TRAINING * ((maps if has_maps else 0) + products),
        layers=network.layers * (passes.views + passes.composites),
        gradient_bytes=ring_all_reduce_bytes(_FLOAT * network.parameters, gpus),
        gathered_bytes=_gathered_bytes(passes.contrast, network, images, shared) if contrast else 0,
        negatives_bytes=_negatives_bytes(passes.contrast, network, images, images * shared)
        if contrast
        else 0,
        decoded=images * passes.decoded,
    )


def ring_all_reduce_bytes(count: float, gpus: int) -> float:
    """What each GPU sends to sum ``count`` bytes round a ring: 2 (n - 1)/n of them.

    >>> ring_all_reduce_bytes(100, 4)
    150.0
    """
    return 2 * (gpus - 1) * count / gpus


def all_gather_bytes(count: float, gpus: int) -> float:
    """What each GPU sends so that its ``count`` bytes, and all others', travel round a ring: n - 1 times as many."""
    return (gpus - 1) * count


def _contrast_flops(contrast: str, network: Network, own: float, every: float) -> float:
    """The matrix products of :mod:`cgc.losses.cgc` or :mod:`cgc.losses.sgc`, forward, with a floor."""
    (h, w), size = network.grid, network.image_size
    grid_product = 2 * h * w * (h + w)  # (h, h) (h, w) (w, w)
    gram = 2 * size * (h**2 + w**2)  # of the upsampling, once
    if contrast == "sgc":
        upsampled = every * 2 * size * w * (h + size)
        pulled = own * 2 * size * h * (size + w)
        return gram + upsampled + pulled + every * (grid_product + 2 * size**2) + 2 * own * every * size**2
    transforms = every * 4 * size * (h**2 + w**2)  # of the augmented views, seen from either side
    return gram + transforms + every * 3 * grid_product + 2 * own * every * h * w


def _gathered_bytes(contrast: str, network: Network, images: float, gpus: int) -> float:
    """Maps of two views to all GPUs and their gradients summed; with them five integers, or a mask in bits."""
    maps = 2 * _FLOAT * network.grid[0] * network.grid[1] * images
    beside = (network.image_size**2 / 8 if contrast == "sgc" else 5 * 8) * images
    return all_gather_bytes(maps + beside, gpus) + ring_all_reduce_bytes(maps * gpus, gpus)


def _negatives_bytes(contrast: str, network: Network, own: float, every: float) -> float:
    """Float32 tensors that grow with the images of all GPUs, counted in copies of the largest ones."""
    (h, w), size = network.grid, network.image_size
    matrix = 4 * own * every  # similarities, scores, and the gradients of both
    per_image = (
        3 * size**2 if contrast == "sgc" else 3 * size * (h + w)
    )  # masks; rows of U for the transforms
    return _FLOAT * (matrix + every * per_image)
