"""A training step of SGC against the step written out."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from cgc.data.presets import normalise
from cgc.gradcam import GradCAMModel
from cgc.methods.sgc import SGCMethod
from cgc.models.backbones import TinyResNet
from tests.methods.toy import (
    SYNCHRONISING,
    Recorder,
    blobs,
    check_consistency_is_learnt,
    check_shares,
    check_step,
    gradients,
    in_double,
    smooth_images,
)
from tests.references.sgc import training_losses
from tests.references.step import resnet_parts

CLASSES = 5


def small_model(**options: Any) -> GradCAMModel:
    return in_double(lambda: TinyResNet(CLASSES), **options)


def batch(n: int, size: int = 48, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """xe, query, labels, saliency."""
    generator = torch.Generator().manual_seed(seed)
    xe, query = smooth_images(2 * n, size, generator).chunk(2)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    return xe, query, labels, blobs(n, size, generator)


def prepared(method: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    xe, query, labels, saliency = inputs
    fields = SimpleNamespace(xe=xe, query=query, labels=labels, saliency=saliency, unlabelled_query=query)
    return method.prepare(fields, torch.Generator())


def written_out(
    net: nn.Module, inputs: tuple[Tensor, Tensor, Tensor, Tensor], temperature: float
) -> tuple[Tensor, Tensor]:
    xe, query, labels, saliency = inputs
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None]
        for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    views = ((xe.double() / 255 - mean) / std, (query.double() / 255 - mean) / std)
    return training_losses(*resnet_parts(net), views, labels, saliency, temperature=temperature)


def test_the_step_equals_the_step_written_out() -> None:
    model = small_model()
    twin = copy.deepcopy(model)
    inputs = batch(4)
    method = SGCMethod(model, weight=0.7, temperature=0.2)
    outputs = method(*prepared(method, inputs))
    check_step(outputs, (model, twin), written_out(twin.backbone.net, inputs, 0.2), 0.7, atol=1e-6)


@pytest.mark.parametrize("sizes", [(4, 4), (7, 1)])
def test_replicas_equal_the_reference_on_their_share(sizes: tuple[int, ...]) -> None:
    model = small_model(frozen_norm=True)
    method, twin = SGCMethod(model, temperature=0.1), copy.deepcopy(model)
    inputs = prepared(method, batch(8))
    check_shares(method, inputs, sizes, lambda share: written_out(twin.backbone.net, share, 0.1), twin)


def test_labels_play_no_part_in_the_consistency_and_saliency_in_the_query() -> None:
    xe, query, labels, saliency = batch(4)
    method = SGCMethod(small_model(frozen_norm=True))
    first = method(xe, query, labels, saliency)
    other = method(xe, query, (labels + 1) % CLASSES, saliency)
    assert torch.equal(first["consistency"], other["consistency"])
    assert not torch.equal(first["cross_entropy"], other["cross_entropy"])
    turned = method(xe, query, labels, 1 - saliency)
    assert torch.equal(first["logits"], turned["logits"])
    assert not torch.equal(first["consistency"], turned["consistency"])


def test_all_foreground_makes_the_third_view_the_query() -> None:
    xe, query, labels, saliency = batch(3)
    method = SGCMethod(small_model(frozen_norm=True))
    outputs = method(xe, query, labels, torch.ones_like(saliency))
    logits = [method.model(normalise(view))[0] for view in (xe, query)]
    own = [F.cross_entropy(each, labels, reduction="none") for each in logits]
    torch.testing.assert_close(outputs["cross_entropy"], (own[0] + 2 * own[1]).detach())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_saliency_counts_as_foreground_whatever_it_is_called(dtype: torch.dtype) -> None:
    xe, query, labels, saliency = batch(3)
    method = SGCMethod(small_model(frozen_norm=True))
    expected = method(xe, query, labels, saliency)
    value = saliency.to(dtype) * (1 if dtype == torch.bool else 255)
    outputs = method(xe, query, labels, value.to(dtype))
    for key, tensor in expected.items():
        assert torch.equal(outputs[key], tensor), key


def test_without_weight_no_heatmaps_are_made() -> None:
    inputs = batch(4)
    outputs = SGCMethod(small_model(), weight=0.0)(*inputs)
    full = SGCMethod(small_model())(*inputs)
    assert set(outputs) == {"loss", "cross_entropy", "logits"}
    torch.testing.assert_close(outputs["loss"], outputs["cross_entropy"])
    torch.testing.assert_close(outputs["cross_entropy"], full["cross_entropy"])


def test_outputs_are_per_sample() -> None:
    outputs = SGCMethod(small_model())(*batch(3))
    assert set(outputs) == {"loss", "cross_entropy", "consistency", "near_zero", "logits"}
    assert all(value.shape[0] == 3 for value in outputs.values())
    assert [key for key, value in outputs.items() if value.requires_grad] == ["loss"]


def test_nothing_salient_and_a_batch_of_one_train() -> None:
    for n, keep in ((1, 1), (3, 0)):
        xe, query, labels, saliency = batch(n)
        model = small_model(frozen_norm=True)
        outputs = SGCMethod(model)(xe, query, labels, saliency * keep)
        outputs["loss"].mean().backward()
        assert gradients(model).isfinite().all()


def test_the_masked_view_keeps_the_memory_format() -> None:
    seen: list[Tensor] = []
    model = small_model(frozen_norm=True)
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    inputs = batch(3)
    inputs = (*(view.to(memory_format=torch.channels_last) for view in inputs[:2]), *inputs[2:])
    SGCMethod(model)(*inputs)
    assert [view.is_contiguous(memory_format=torch.channels_last) for view in seen] == [True] * 3
    assert torch.equal(seen[2], seen[1] * inputs[3][:, None])


@pytest.mark.parametrize("arch", ["squeezenet1_1"])
def test_heads_without_a_closed_form_train(arch: str) -> None:
    """The consistency's gradient comes through a second backward pass."""
    torch.manual_seed(0)
    model = GradCAMModel(torchvision.models.get_model(arch, num_classes=CLASSES)).train()
    check_consistency_is_learnt(model, lambda weight: SGCMethod(model, weight=weight)(*batch(3))["loss"])


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_nothing_is_read_back_from_the_device(floor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the meta device have no values, so whoever asks for one fails."""
    # Which does not know the meta device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    torch.manual_seed(0)
    method = SGCMethod(GradCAMModel(TinyResNet(CLASSES)).train(), floor=floor).to("meta")
    inputs = tuple(tensor.to("meta") for tensor in batch(4))
    with Recorder() as recorder:
        method(*prepared(method, inputs))["loss"].mean().backward()
    assert "convolution_backward" in recorder.names
    assert not recorder.names & SYNCHRONISING


@pytest.mark.parametrize(
    ("option", "value"), [("weight", -1.0), ("temperature", 0.0), ("floor", -0.1), ("floor", 1.0)]
)
def test_bad_options_are_named_at_construction(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"SGCMethod .*{option}"):
        SGCMethod(small_model(), **{option: value})


def test_a_batch_without_fitting_saliency_is_refused() -> None:
    xe, query, labels, saliency = batch(3)
    method = SGCMethod(small_model())
    for wrong, named in (
        (None, "has none"),
        (saliency[:2], r"\(3, 48, 48\)"),
        (saliency[:, :32, :32], r"\(3, 48, 48\)"),
        (saliency.float(), "float32"),
    ):
        with pytest.raises(ValueError, match=named):
            prepared(method, (xe, query, labels, wrong))
