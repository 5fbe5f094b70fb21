"""Validation of several labels against counts made by hand."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cgc.data.method_views import StretchedViews
from cgc.data.multi_label import open_multi_label
from cgc.data.presets import normalise
from cgc.data.views import SeededSampler, ViewLoader, make_loader
from cgc.engine.multi_label_validation import BEST_BY, MultiLabelStep, validate_multi_label
from cgc.engine.runtime import Stopped, StopRequest
from cgc.engine.totals import Totals, add_step, means_of
from cgc.errors import InputError
from cgc.gradcam import GradCAMModel
from cgc.models.backbones import TinyResNet
from tests.data.test_multi_label import SHOWN, write_split

CPU = torch.device("cpu")


class Always(nn.Module):
    """Says cat (0.9) and cow (0.6) of everything, and of dogs exactly one half, which is not above it."""

    def forward(self, query: Tensor) -> dict[str, Tensor]:
        assert not self.training
        assert not torch.is_grad_enabled()
        return {"probabilities": torch.tensor([[0.9, 0.5, 0.6]]).repeat(len(query), 1)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_split(tmp_path, SHOWN, "val2014")
    return tmp_path


def loader(data: Path, batch_size: int = 3) -> ViewLoader:
    images, _ = open_multi_label(data, "val")
    views = StretchedViews(images, 16)
    return make_loader(views, SeededSampler(len(views), shuffle=False), batch_size=batch_size, workers=0)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_figures_are_those_of_the_counts(data: Path, batch_size: int) -> None:
    """8 images; 6 show a cat, 5 a dog, 4 a cow; cat and cow are said of all."""
    figures, unreadable = validate_multi_label(Always(), loader(data, batch_size), CPU)
    assert unreadable == []
    assert figures == pytest.approx(
        {
            "val_overall_precision": 100 * 10 / 16,
            "val_overall_recall": 100 * 10 / 15,
            "val_overall_f1": 100 * 20 / 31,
            "val_class_precision": 100 * (6 / 8 + 0 + 4 / 8) / 3,
            "val_class_recall": 100 * 2 / 3,
            "val_class_f1": 100 * (12 / 14 + 0 + 8 / 12) / 3,
        }
    )
    assert BEST_BY in figures


def test_images_that_stand_in_for_unreadable_ones_count_once(data: Path) -> None:
    """The third image is gone: the fourth stands in for it, and counts once; 5 cats, 4 dogs, 3 cows of 7."""
    (data / "val2014" / "2.png").write_bytes(b"")
    for batch_size in (1, 2, 4, 8):
        figures, unreadable = validate_multi_label(Always(), loader(data, batch_size), CPU)
        assert figures["val_overall_f1"] == pytest.approx(100 * 16 / 26)
        assert len(unreadable) == 1
        assert "2.png" in unreadable[0]
    with pytest.raises(InputError, match=r"--strict.*2\.png"):
        validate_multi_label(Always(), loader(data), CPU, strict=True)


def test_stops_when_asked(data: Path) -> None:
    stop = StopRequest()
    stop.signal = signal.SIGTERM
    with pytest.raises(Stopped):
        validate_multi_label(Always(), loader(data), CPU, stop=stop)


def test_nothing_is_learnt_and_modes_come_back(data: Path) -> None:
    step = MultiLabelStep(GradCAMModel(TinyResNet(3))).train()
    step.model.backbone.layer1.eval()  # a frozen part
    modes = {name: module.training for name, module in step.named_modules()}
    before = {name: value.clone() for name, value in step.state_dict().items()}
    validate_multi_label(step, loader(data), CPU)
    assert {name: module.training for name, module in step.named_modules()} == modes
    assert all(torch.equal(before[name], value) for name, value in step.state_dict().items())


def test_probabilities_are_of_each_class_by_itself() -> None:
    model = GradCAMModel(TinyResNet(3)).eval()
    query = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    step = MultiLabelStep(model)
    found = step(query)["probabilities"]
    assert torch.allclose(found, 1 / (1 + torch.exp(-model.backbone(normalise(query)))), atol=1e-6)


def test_totals_count_images_and_hits_of_several_labels() -> None:
    """Of three images the first prediction is right twice, and samples are images, not entries of the labels."""
    totals = Totals(CPU, {})
    labels = torch.tensor([[True, True, False], [False, True, True], [False, False, True]])
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    outputs = {"loss": torch.tensor([1.0, 2.0, 6.0]), "logits": logits}
    add_step(totals, outputs, labels, torch.tensor(1.0), None)
    means = means_of(totals.read())
    assert means["top1"] == pytest.approx(200 / 3)
    assert means["loss"] == pytest.approx(3)
