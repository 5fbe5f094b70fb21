"""Validation: figures that belong to model and data, not to the batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cgc.data.folders import open_split
from cgc.data.views import EvalViews, SeededSampler, ViewLoader, make_loader
from cgc.engine.runtime import in_parallel
from cgc.engine.validation import validate
from cgc.errors import InputError
from cgc.gradcam import GradCAMModel
from cgc.methods.validation import ValidationStep
from cgc.models.backbones import TinyResNet
from tests.commands.runs import training_folder

SIZE, CPU = 16, torch.device("cpu")


class Recording(nn.Module):
    """Predicts class 1 always; remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Tensor] = []
        self.transforms: list[Tensor] = []

    def forward(self, query: Tensor, packed: Tensor) -> dict[str, Tensor]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.batches.append(query)
        self.transforms.append(packed)
        maps = query.float().mean(dim=1)[:, ::4, ::4]
        return {
            "logits": torch.tensor([[0.0, 1.0, -1.0]]).repeat(len(query), 1),
            "query_maps": maps,
            "augmented_maps": maps.flip(-1),
        }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return training_folder(tmp_path / "data", per_class=(1, 3))


def loader(data: Path, batch_size: int) -> ViewLoader:
    images = open_split(data, "val")
    sampler = SeededSampler(len(images), shuffle=False)
    return make_loader(EvalViews(images, SIZE), sampler, batch_size=batch_size, workers=0)


def figures(step: nn.Module, data: Path, batch_size: int = 4) -> dict[str, float]:
    return validate(step, loader(data, batch_size), CPU, image_size=SIZE, temperature=0.5)[0]


def test_figures_do_not_depend_on_the_batch_size(data: Path) -> None:
    torch.manual_seed(0)
    step = ValidationStep(GradCAMModel(TinyResNet(3)))
    whole = figures(step, data, 9)
    assert set(whole) == {"val_top1", "val_top5", "val_consistency", "val_cosine", "val_zero_maps"}
    assert whole["val_consistency"] > 0
    assert 0 <= whole["val_cosine"] <= 1
    for batch_size in (1, 2, 4):
        assert figures(step, data, batch_size) == pytest.approx(whole, rel=1e-4)


def test_the_augmented_view_of_an_image_depends_on_its_index_alone(data: Path) -> None:
    one, other = Recording(), Recording()
    figures(one, data, 2)
    torch.rand(5)
    figures(other, data, 9)
    assert torch.equal(torch.cat(one.transforms), torch.cat(other.transforms))
    assert torch.equal(torch.cat(one.batches), torch.cat(other.batches))
    assert len(torch.cat(one.transforms).unique(dim=0)) == 9  # not the same view for all


def test_the_global_random_state_is_not_moved(data: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    figures(Recording(), data)
    assert torch.equal(torch.rand(3), expected)


def test_accuracy_counts_every_image_once(data: Path) -> None:
    assert figures(Recording(), data, 4)["val_top1"] == pytest.approx(100 / 3)


def test_images_that_stand_in_for_unreadable_ones_count_once(data: Path) -> None:
    """Two of `bee` are gone, so the third of them, and `cow`'s first one, would count more than once."""
    bad = [data / "val" / "bee" / name for name in ("0.png", "2.png")]
    for path in bad:
        path.write_bytes(b"")
    step = Recording()
    found, unreadable = validate(step, loader(data, 2), CPU, image_size=SIZE, temperature=0.5)
    assert found["val_top1"] == pytest.approx(100 / 7)
    assert [any(str(path) in line for line in unreadable) for path in bad] == [True, True]
    assert len(unreadable) == 2
    assert sum(len(batch) for batch in step.batches) == 9  # shapes hold
    with pytest.raises(InputError, match=r"--strict.*bee/0\.png"):
        validate(step, loader(data, 2), CPU, image_size=SIZE, temperature=0.5, strict=True)


def test_modes_come_back_as_they_were(data: Path) -> None:
    model = GradCAMModel(TinyResNet(3)).train()
    model.backbone.layer1.eval()  # a frozen part
    step = ValidationStep(model)
    before = {name: module.training for name, module in step.named_modules()}
    assert len(set(before.values())) == 2
    figures(step, data)
    assert {name: module.training for name, module in step.named_modules()} == before


def test_modes_come_back_after_an_error_too(data: Path) -> None:
    (data / "val" / "ant" / "0.png").write_bytes(b"")
    step = ValidationStep(GradCAMModel(TinyResNet(3))).train()
    with pytest.raises(InputError):
        validate(step, loader(data, 4), CPU, image_size=SIZE, temperature=0.5, strict=True)
    assert all(module.training for module in step.modules())


def test_nothing_is_learnt(data: Path) -> None:
    """Neither weights nor batch statistics, and no gradient is left."""
    step = ValidationStep(GradCAMModel(TinyResNet(3))).train()
    before = {name: value.clone() for name, value in step.state_dict().items()}
    figures(step, data)
    assert all(torch.equal(before[name], value) for name, value in step.state_dict().items())
    assert all(p.grad is None for p in step.parameters())


def test_bfloat16_is_close(data: Path) -> None:
    torch.manual_seed(0)
    step = ValidationStep(GradCAMModel(TinyResNet(3)))
    single = figures(step, data)
    mixed = validate(in_parallel(step, CPU, "bf16"), loader(data, 4), CPU, image_size=SIZE, temperature=0.5)[
        0
    ]
    assert mixed["val_cosine"] == pytest.approx(single["val_cosine"], abs=0.02)
    assert mixed["val_cosine"] != single["val_cosine"]
