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
from cgc.methods.sgc import SGCMethod, UnlabelledSGC
from cgc.models.backbones import TinyResNet
from tests.methods.test_cgc import SYNCHRONISING, Recorder, gradients, relative
from tests.references.sgc import training_losses
from tests.references.step import resnet_parts

CLASSES = 5


class InDouble(nn.Module):
    """A small residual network that computes in float64, so that comparisons are tight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = TinyResNet(CLASSES).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.double())


def small_model(*, frozen_norm: bool = False) -> GradCAMModel:
    model = GradCAMModel(InDouble(), "net.layer3").train()
    if frozen_norm:
        generator = torch.Generator().manual_seed(5)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


def batch(n: int, size: int = 48, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """xe, query (uint8), labels, saliency (uint8: one coherent blob each)."""
    generator = torch.Generator().manual_seed(seed)
    views = F.interpolate(
        torch.rand(2 * n, 3, 8, 8, generator=generator) * 255, (size, size), mode="bilinear"
    )
    xe, query = views.to(torch.uint8).chunk(2)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    blobs = F.interpolate(torch.rand(n, 1, 3, 3, generator=generator), (size, size), mode="bilinear")[:, 0]
    return xe, query, labels, (blobs > 0.5).to(torch.uint8)


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
    cross_entropy, expected = written_out(twin.backbone.net, inputs, 0.2)
    torch.testing.assert_close(outputs["cross_entropy"], cross_entropy.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outputs["consistency"], expected.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(outputs["loss"], cross_entropy + 0.7 * expected, rtol=1e-5, atol=1e-5)
    outputs["loss"].mean().backward()
    (cross_entropy + 0.7 * expected).mean().backward()
    # The views are rounded to float32 before the network.
    assert relative(gradients(model), gradients(twin)) < 1e-4
    # Three passes in one order, three updates of the running statistics, in both.
    for (name, value), other in zip(
        model.backbone.net.named_buffers(), twin.backbone.net.buffers(), strict=True
    ):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("sizes", [(4, 4), (7, 1)])
def test_replicas_equal_the_reference_on_their_share(sizes: tuple[int, ...]) -> None:
    """DataParallel by hand: a copy of the method for each chunk, outputs concatenated, gradients added."""
    model = small_model(frozen_norm=True)
    method, twin = SGCMethod(model, temperature=0.1), copy.deepcopy(model)
    inputs = batch(8)
    shares = list(zip(*(tensor.split(sizes) for tensor in prepared(method, inputs)), strict=True))
    replicas = [copy.deepcopy(method) for _ in sizes]
    outputs = [replica(*share) for replica, share in zip(replicas, shares, strict=True)]
    gathered = {key: torch.cat([output[key] for output in outputs]) for key in outputs[0]}
    gathered["loss"].mean().backward()
    gradient = torch.stack([gradients(replica) for replica in replicas]).sum(0)

    parts = [written_out(twin.backbone.net, share, 0.1) for share in shares]
    cross_entropy, expected = (torch.cat(column) for column in zip(*parts, strict=True))
    (cross_entropy + 0.5 * expected).mean().backward()
    torch.testing.assert_close(gathered["cross_entropy"], cross_entropy.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gathered["consistency"], expected.detach(), rtol=1e-4, atol=1e-6)
    assert relative(gradient, gradients(twin)) < 1e-4
    # The negatives are those of the replica alone: the whole batch at once has more of them.
    whole = method(*inputs)
    assert (whole["consistency"] > gathered["consistency"]).all()
    torch.testing.assert_close(whole["logits"], gathered["logits"])


def test_the_form_without_labels_is_the_consistency_of_the_other() -> None:
    model = small_model(frozen_norm=True)
    inputs = batch(4)
    with_labels = SGCMethod(model, weight=0.25, temperature=0.2)(*inputs)
    method = UnlabelledSGC(model, weight=0.25, temperature=0.2)
    outputs = method(*prepared(method, inputs))
    torch.testing.assert_close(outputs["consistency"], with_labels["consistency"])
    torch.testing.assert_close(outputs["loss"], 0.25 * with_labels["consistency"])
    torch.testing.assert_close(outputs["near_zero"], with_labels["near_zero"])
    logits, _ = model(normalise(inputs[1]))
    torch.testing.assert_close(outputs["logits"], logits)
    outputs["loss"].mean().backward()
    assert relative(gradients(model), torch.ones(())) > 0
    assert [key for key, value in outputs.items() if value.requires_grad] == ["loss"]


def test_halves_without_labels_have_negatives_of_their_own() -> None:
    model = small_model(frozen_norm=True)
    method = UnlabelledSGC(model, temperature=0.1)
    query, saliency = prepared(method, batch(6))
    halves = [method(query[s], saliency[s])["consistency"] for s in (slice(0, 3), slice(3, 6))]
    xe_labels = batch(6)
    for half, s in zip(halves, (slice(0, 3), slice(3, 6)), strict=True):
        share = (xe_labels[0][s], query[s], xe_labels[2][s], saliency[s])
        _, expected = written_out(model.backbone.net, share, 0.1)
        torch.testing.assert_close(half, expected.detach(), rtol=1e-4, atol=1e-6)
    assert (method(query, saliency)["consistency"] > torch.cat(halves)).all()


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
    results = []
    for weight in (0.0, 100.0):
        torch.manual_seed(3)  # the same units dropped
        model.zero_grad()
        SGCMethod(model, weight=weight)(*batch(3))["loss"].mean().backward()
        results.append(gradients(model))
    assert results[1].isfinite().all()
    assert relative(results[1], results[0]) > 1e-3


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
@pytest.mark.parametrize("kind", [SGCMethod, UnlabelledSGC])
def test_bad_options_are_named_at_construction(kind: Any, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__} .*{option}"):
        kind(small_model(), **{option: value})


@pytest.mark.parametrize("kind", [SGCMethod, UnlabelledSGC])
def test_a_batch_without_fitting_saliency_is_refused(kind: Any) -> None:
    xe, query, labels, saliency = batch(3)
    method = kind(small_model())
    for wrong, named in (
        (None, "has none"),
        (saliency[:2], r"\(3, 48, 48\)"),
        (saliency[:, :32, :32], r"\(3, 48, 48\)"),
        (saliency.float(), "float32"),
    ):
        with pytest.raises(ValueError, match=named):
            prepared(method, (xe, query, labels, wrong))
