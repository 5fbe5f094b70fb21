"""Classifiers by name: torchvision's CNNs, small ones for small images, and timm's as ``timm:NAME``.

Shapes: images (N, 3, H, W) to logits (N, K).
"""

from __future__ import annotations

import copy
import difflib
import functools

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from cgc.errors import InputError, RunError
from cgc.models.timm_models import PREFIX, build_timm, timm_classes

_IMAGENET_CLASSES = 1000
_TRANSFORMERS = ("vit_", "swin_", "maxvit")
_SMALL_STEM = "_small"  # resnet18_small, resnet50_small, ...
# Published weights of these two expect another normalisation, which transform_input gives them. Fresh ones get it
# too, so that a checkpoint computes what its model did.
_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


class TinyResNet(nn.Module):
    """A residual network for images of 32 to 96 px that two CPU cores can train: 0.2 M parameters, stride 8.

    A 3×3 stem of stride 2 with 16 channels, three stages of one block with 32, 64 and 96 channels at strides 2, 2
    and 1, average pool, linear.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _residual(16, 32, stride=2)
        self.layer2 = _residual(32, 64, stride=2)
        self.layer3 = _residual(64, 96, stride=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(96, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _residual(inputs: int, outputs: int, stride: int) -> BasicBlock:
    shortcut = nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
    )
    return BasicBlock(inputs, outputs, stride, shortcut)


@functools.lru_cache(maxsize=1)
def architectures() -> list[str]:
    """Names that :func:`build_backbone` takes, beside ``timm:NAME``."""
    cnns = [n for n in torchvision.models.list_models(torchvision.models) if not n.startswith(_TRANSFORMERS)]
    return [*cnns, "resnet_tiny", "resnet18_small", "resnet34_small", "resnet50_small"]


def build_backbone(
    arch: str, num_classes: int, *, pretrained: bool = False, maxpool: bool = False
) -> nn.Module:
    """A classifier with ``num_classes`` outputs; its initial weights come from torch's global random state.

    ``pretrained`` takes torchvision's first ImageNet weights (downloads them), with a fresh head unless
    ``num_classes`` is 1000. ``maxpool`` replaces the global average pooling by global max pooling (GC's ``--maxpool``).
    Networks with auxiliary heads are built without them. ``timm:NAME``: see :mod:`cgc.models.timm_models`.

    Raises InputError for an unknown name or an option the architecture does not have, RunError if a download fails.
    """
    if arch.removeprefix(PREFIX).startswith(_TRANSFORMERS):
        raise InputError(f"{arch} is a vision transformer: Grad-CAM needs a convolutional feature grid")
    if arch.startswith(PREFIX):
        return build_timm(arch, num_classes, pretrained=pretrained, maxpool=maxpool)
    if arch not in architectures():
        close = difflib.get_close_matches(arch, architectures(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(architectures())}"
        raise InputError(f"unknown architecture {arch!r}; {hint}")
    small = arch == "resnet_tiny" or arch.endswith(_SMALL_STEM)
    if small and pretrained:
        raise InputError(f"there are no pretrained weights for {arch!r}")
    if arch == "resnet_tiny":
        backbone: nn.Module = TinyResNet(num_classes)
    elif arch.endswith(_SMALL_STEM) and arch not in torchvision.models.list_models():
        backbone = torchvision.models.get_model(
            arch.removesuffix(_SMALL_STEM), weights=None, num_classes=num_classes
        )
        backbone.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        backbone.maxpool = nn.Identity()
    elif pretrained:
        backbone = _pretrained(arch, num_classes)
    else:
        fresh = {"transform_input": True, "aux_logits": False, "init_weights": True}
        inception = fresh if arch in _WITH_AUXILIARY_HEADS else {}
        backbone = torchvision.models.get_model(arch, weights=None, num_classes=num_classes, **inception)
    return _with_max_pool(arch, backbone) if maxpool else backbone


def _pretrained(arch: str, num_classes: int) -> nn.Module:
    try:
        backbone: nn.Module = torchvision.models.get_model(arch, weights="IMAGENET1K_V1")
    except OSError as error:
        raise RunError(f"the ImageNet weights of {arch} could not be downloaded: {error}") from error
    if (
        arch == "inception_v3"
    ):  # torchvision loads the auxiliary head with the weights; GoogLeNet's it drops itself
        backbone.aux_logits = False  # type: ignore[assignment]
        backbone.AuxLogits = None  # type: ignore[assignment]
    if num_classes != _IMAGENET_CLASSES:
        name, head = last_linear(backbone)
        parent = backbone.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], nn.Linear(head.in_features, num_classes))
    return backbone


def pretrained_classes(arch: str) -> int:
    """Number of classes that the published weights of an architecture tell apart."""
    return timm_classes(arch) if arch.startswith(PREFIX) else _IMAGENET_CLASSES


def last_linear(backbone: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the last linear layer, the classifier of nearly every network.

    Raises InputError if there is none.
    """
    linears = [(name, m) for name, m in backbone.named_modules() if isinstance(m, nn.Linear)]
    if not linears:
        raise InputError(f"{type(backbone).__name__} has no linear classifier to replace")
    return linears[-1]


def _with_max_pool(arch: str, backbone: nn.Module) -> nn.Module:
    pool = getattr(backbone, "avgpool", None)
    if not isinstance(pool, nn.AdaptiveAvgPool2d) or pool.output_size not in (1, (1, 1)):
        raise InputError(f"{arch} has no global average pooling that --maxpool could replace")
    backbone.avgpool = nn.AdaptiveMaxPool2d(1)
    return backbone


def check_image_size(backbone: nn.Module, size: int, images: int = 1, *, training: bool = False) -> None:
    """Run a copy of ``backbone`` once on ``images`` blank images of size×size px, in the mode asked for.

    Raises InputError if it cannot: too small for its pools, or one image on one cell for batch norm in training.
    """
    probe = copy.deepcopy(backbone).train(training)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            probe(torch.zeros(images, 3, size, size))
    except (RuntimeError, ValueError) as error:
        batch = " in a batch of one" if images == 1 and training else ""
        reason = str(error).splitlines()[0]
        raise InputError(f"the network cannot run on images of {size} px{batch}: {reason}") from error
