"""A training step of supervised energy against the step written out."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cgc.data.presets import normalise
from cgc.gradcam import GradCAMModel
from cgc.methods.energy import EnergyMethod
from cgc.metrics.content_heatmap import content_heatmap
from cgc.models.backbones import build_backbone
from tests.methods.toy import gradients, in_replicas, relative, smooth_images

CLASSES = 4
EMPTY = [0, 0, -1, -1]
BOXES = torch.tensor(
    [[[3, 4, 20, 30], [10, 0, 31, 12]], [EMPTY, EMPTY], [[0, 0, 15, 31], EMPTY], [[40, 0, 50, 9], EMPTY]]
)
BOXED = [True, False, True, False]  # the last one's box lies outside of the image
NO_DRAWS = torch.Generator()


def small_method(arch: str = "resnet_tiny", **options: Any) -> EnergyMethod:
    """Frozen batch norm, so that an image's outputs do not depend on the others."""
    torch.manual_seed(0)
    return EnergyMethod(GradCAMModel(build_backbone(arch, CLASSES)), **options).eval()


def batch(**more: Any) -> SimpleNamespace:
    images = smooth_images(4, 32, torch.Generator().manual_seed(1), cells=6)
    return SimpleNamespace(xe=images, labels=torch.tensor([2, 0, 1, 3]), **more)


def test_the_loss_is_cross_entropy_and_what_lies_outside() -> None:
    data = batch(boxes=BOXES)
    method = small_method(weight=3.0)
    outputs = method(*method.prepare(data, NO_DRAWS))
    logits, features = method.model(normalise(data.xe))
    maps = method.model.heatmaps(logits, features, data.labels)
    outside = [
        1 - content_heatmap(m, b, (32, 32)) if has else 0.0
        for m, b, has in zip(maps, BOXES, BOXED, strict=True)
    ]
    assert outside[0] > 0.1
    torch.testing.assert_close(outputs["consistency"], torch.tensor(outside), rtol=0, atol=1e-5)
    cross_entropy = F.cross_entropy(logits, data.labels, reduction="none")
    torch.testing.assert_close(
        outputs["loss"], cross_entropy + 3 * torch.tensor(outside), rtol=1e-5, atol=1e-5
    )
    assert outputs["boxed"].tolist() == BOXED
    assert set(outputs) == {"loss", "cross_entropy", "consistency", "boxed", "near_zero", "logits"}
    assert all(len(value) == 4 for value in outputs.values())
    assert [key for key, value in outputs.items() if value.requires_grad] == ["loss"]


@pytest.mark.parametrize("arch", ["resnet_tiny", "squeezenet1_1"])  # closed form and autograd
def test_a_step_moves_the_map_into_the_boxes(arch: str) -> None:
    data = batch(boxes=BOXES)
    if arch != "resnet_tiny":
        data.xe = F.interpolate(data.xe.float(), (96, 96)).to(torch.uint8)
        data.boxes = BOXES * 3
    method = small_method(arch, weight=100.0)
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-5)
    before = method(*method.prepare(data, NO_DRAWS))
    before["loss"].mean().backward()
    optimizer.step()
    after = method(*method.prepare(data, NO_DRAWS))
    assert after["consistency"].sum() < before["consistency"].sum()


def test_the_heatmaps_of_autograd_reach_the_head() -> None:
    """The gradients that these maps are made of depend on the head's weights."""
    data = batch(boxes=BOXES * 3)
    data.xe = F.interpolate(data.xe.float(), (96, 96)).to(torch.uint8)
    found = []
    for weight in (0.0, 1.0):
        method = small_method("squeezenet1_1", weight=weight)
        method(*method.prepare(data, NO_DRAWS))["loss"].mean().backward()
        found.append(method.model.backbone.get_submodule("classifier.1").weight.grad)
    assert (found[1] - found[0]).norm() > 1e-3 * found[0].norm()


@pytest.mark.parametrize("without", ["boxes", "weight"])
def test_without_boxes_or_weight_it_is_the_baseline(without: str) -> None:
    data = batch() if without == "boxes" else batch(boxes=BOXES)
    method = small_method(weight=0.0 if without == "weight" else 1.0)
    outputs = method(*method.prepare(data, NO_DRAWS))
    assert torch.equal(outputs["loss"], outputs["cross_entropy"])
    assert ("boxed" in outputs) == (without == "boxes")
    if without == "boxes":
        assert not outputs["boxed"].any()


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3)])
def test_replicas_equal_the_whole(sizes: tuple[int, ...]) -> None:
    method = small_method()
    twin = copy.deepcopy(method)
    prepared = method.prepare(batch(boxes=BOXES), NO_DRAWS)
    shares = list(zip(*(tensor.split(sizes) for tensor in prepared), strict=True))
    gathered, added, _ = in_replicas(method, shares)
    whole = twin(*prepared)
    whole["loss"].mean().backward()
    for key in ("loss", "cross_entropy", "consistency", "boxed", "logits"):
        torch.testing.assert_close(gathered[key], whole[key], rtol=1e-4, atol=1e-5, msg=key)
    assert relative(added, gradients(twin)) < 1e-4


@pytest.mark.parametrize("boxes", [None, BOXES])
def test_nothing_is_read_back_from_the_device(boxes: Tensor | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch, "autocast", lambda *_, **__: nullcontext()
    )  # which does not know the meta device
    data = batch()
    method = small_method().to("meta")
    on_meta = SimpleNamespace(
        xe=data.xe.to("meta"),
        labels=data.labels.to("meta"),
        boxes=None if boxes is None else boxes.to("meta"),
    )
    method(*method.prepare(on_meta, NO_DRAWS))["loss"].mean().backward()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="-1"):
        small_method(weight=-1.0)
    data = batch()
    data.xe = None
    with pytest.raises(ValueError, match="xe"):
        small_method().prepare(data, NO_DRAWS)
