"""Checkpoints that cannot be used: one line that names file and reason, status 2, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cgc.models.backbones import TinyResNet
from tests.commands.runs import refused


def _weights(classes: int = 3) -> dict[str, torch.Tensor]:
    return TinyResNet(classes).state_dict()


def _text(path: Path) -> str:
    path.write_text("hello")
    return "not a checkpoint"


def _nothing(path: Path) -> str:
    path.write_bytes(b"")
    return "not a checkpoint"


def _folder(path: Path) -> str:
    path.mkdir()
    return "no checkpoint at"


def _missing(path: Path) -> str:
    return "no checkpoint at"


def _truncated(path: Path) -> str:
    torch.save({"state_dict": _weights()}, path)
    path.write_bytes(path.read_bytes()[:5000])
    return "not a checkpoint"


def _tensor(path: Path) -> str:
    torch.save(torch.zeros(3), path)
    return "state_dict"


def _code(path: Path) -> str:
    torch.save(TinyResNet(3), path)
    return "plain types"


def _other_arch(path: Path) -> str:
    torch.save({"state_dict": {"module.features.0.weight": torch.zeros(2, 2)}}, path)
    return "does not fit"


def _key_missing(path: Path) -> str:
    weights = _weights()
    del weights["layer2.conv1.weight"]
    torch.save({"state_dict": weights}, path)
    return "1 missing (layer2.conv1.weight)"


def _key_added(path: Path) -> str:
    torch.save({"state_dict": {**_weights(), "layer9.weight": torch.zeros(1)}}, path)
    return "1 unexpected (layer9.weight)"


def _misshapen(path: Path) -> str:
    torch.save({"state_dict": {**_weights(), "conv1.weight": torch.zeros(16, 3, 7, 7)}}, path)
    return "1 of another shape (conv1.weight)"


def _other_classes(path: Path) -> str:
    torch.save({"state_dict": _weights(), "classes": ["x", "y", "z"]}, path)
    return "other classes (x, "


def _other_optimizer(path: Path) -> str:
    torch.save({"epoch": 1, "state_dict": _weights(), "optimizer": {"groups": []}}, path)
    return "state of training"


@pytest.mark.parametrize(
    "write",
    [
        _text,
        _nothing,
        _folder,
        _missing,
        _truncated,
        _tensor,
        _code,
        _other_arch,
        _key_missing,
        _key_added,
        _misshapen,
        _other_classes,
        _other_optimizer,
    ],
)
def test_checkpoints_that_do_not_fit(
    training_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path], str]
) -> None:
    path = tmp_path / "model.pth.tar"
    reason = write(path)
    said = refused(capsys, training_data, "--resume", path, save_dir=tmp_path / "run")
    assert str(path) in said
    assert reason in said
