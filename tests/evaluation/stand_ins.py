"""Stand-ins for models whose maps are known, and what the tests ask of a result."""

from __future__ import annotations

import torch
from torch import nn

from cgc.evaluation.options import EvaluationOptions, PerturbationOptions
from cgc.evaluation.rows import summarise
from cgc.evaluation.run import evaluate
from cgc.evaluation.subject import Subject
from cgc.gradcam import GradCAMModel
from cgc.models.backbones import build_backbone

SMALL = PerturbationOptions(side=64, steps=7)


def looks_left(images, target):
    """Weight on the left half, nothing at all on black images; always says class 0."""
    bright = (images.mean(dim=(1, 2, 3)) > 0).float()
    maps = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(len(images), 2, 2) * bright[:, None, None]
    return torch.tensor([[2.0, 0.0]]).expand(len(images), 2), maps


def looks_at_object(images, target):
    """Brightness above a dark background, pixel by pixel."""
    grid = images.mean(dim=1)
    return torch.zeros(len(images), 2), (grid - grid.amin(dim=(1, 2), keepdim=True)).clamp(min=0)


def looks_at_background(images, target):
    logits, maps = looks_at_object(images, target)
    return logits, maps.amax(dim=(1, 2), keepdim=True) - maps


def subject(explain_one):
    def predict(images):
        return explain_one(images, torch.zeros(len(images), dtype=torch.long))[0]

    def explain(images, target=None, owner=None):
        target = predict(images).argmax(1) if target is None else target
        owner = torch.arange(len(images)) if owner is None else owner
        return predict(images), explain_one(images[owner], target)[1]

    return Subject(explain, predict)


def localise(explain_one, images, **options):
    on_maps = options.pop("on_maps", None)
    return evaluate(subject(explain_one), images, EvaluationOptions(**options), on_maps=on_maps)


def values(result, images, *, classes=2):
    """``{metric: {map: value}}`` of a result."""
    metrics = ("ch", "pg", "spg", "top1")
    summary = summarise(result.rows, images, metrics, num_classes=classes, draws=0)
    return {
        metric: {name: None if e is None else e.value for name, e in each.items()}
        for metric, each in summary.scores.items()
    }, summary


def triple(row, name="model"):
    return tuple(row.score(metric, name) for metric in ("ch", "pg", "spg"))


class CountsForwards(nn.Module):
    """A network that counts its forward passes and the images in them."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.images = backbone, 0

    def forward(self, images):
        self.images += len(images)
        return self.backbone(images)


def counted(arch="resnet_tiny", classes=2):
    torch.manual_seed(0)
    network = CountsForwards(build_backbone(arch, classes))
    model = GradCAMModel(network).eval()
    network.images = 0
    return network, model
