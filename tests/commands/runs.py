"""Training runs small enough for tests, and what to look at afterwards."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from cgc.commands.train import main
from cgc.engine.loop import Trainer
from tests.data.images import save_photograph

CLASSES = ("ant", "bee", "cow")


def training_folder(root: Path, per_class: tuple[int, int] = (4, 2), held_out: str = "val") -> Path:
    """`<root>/{train,held_out}/{ant,bee,cow}/<k>.png`: with 12 images and batches of 5 the last one is short."""
    for split, (folder, count) in enumerate(zip(("train", held_out), per_class, strict=True)):
        for c, name in enumerate(CLASSES):
            for k in range(count):
                save_photograph(root / folder / name / f"{k}.png", 36, 36, 100 * split + 10 * c + k)
    return root


def train(
    data: Path,
    *arguments: object,
    save_dir: Path | None = None,
    arch: str = "resnet_tiny",
    preset: str = "cgc",
) -> int:
    """Run the command in this process: 32 px, batches of 5, two epochs unless said otherwise."""
    common = ["-a", arch, "--image-size", "32", "-j", "0", "-b", "5", "--epochs", "2", "--device", "cpu"]
    folder = [] if save_dir is None else ["--save_dir", str(save_dir)]
    return main([str(data), *common, *folder, *map(str, arguments)], preset=preset)


def signal_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """SIGINT to this process in the middle of a step."""
    step, done = Trainer._step, [0]

    def counted(self: Trainer, *arguments: Any) -> None:
        done[0] += 1
        if done[0] == steps:
            signal.raise_signal(signal.SIGINT)
        step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", counted)


def checkpoint(path: Path) -> dict[str, Any]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    assert isinstance(content, dict)
    return content


def checkpoints(save_dir: Path) -> list[str]:
    return sorted(path.name for path in save_dir.glob("*.pth.tar"))


def rows(save_dir: Path) -> list[dict[str, str]]:
    """metrics.csv without the column that no two runs share."""
    with (save_dir / "metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        assert float(row.pop("seconds")) > 0
    return found


def result(save_dir: Path) -> dict[str, Any]:
    content = json.loads((save_dir / "result.json").read_text())
    assert isinstance(content, dict)
    return content


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Places where two nested states are not equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return [] if isinstance(other, torch.Tensor) and torch.equal(one, other) else [where]
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return [where]
        return [d for key in one for d in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, (list, tuple)):
        if not isinstance(other, (list, tuple)) or len(one) != len(other):
            return [where]
        return [
            d
            for i, (x, y) in enumerate(zip(one, other, strict=True))
            for d in differences(x, y, f"{where}/{i}")
        ]
    return [] if one == other else [where]


def training_differences(one: Path, other: Path) -> list[str]:
    """Where two checkpoints differ, leaving out seconds, the command line, and what --keep of another one spared."""
    contents = [checkpoint(path) for path in (one, other)]
    for content in contents:
        content.pop("options")
        content.pop("spared")
        content["progress"].pop("seconds")
    return differences(*contents)


def error_line(captured: str, kind: str = "error") -> str:
    """The last line on stderr, which must be the message; tracebacks have no place there."""
    assert "Traceback" not in captured
    lines = [line for line in captured.splitlines() if line.strip()]
    assert lines, "nothing on stderr"
    assert lines[-1].startswith(f"{kind}: "), lines[-1]
    assert sum(line.startswith(("error: ", "failed: ")) for line in lines) == 1
    return lines[-1]


def refused(
    capsys: pytest.CaptureFixture[str], data: Path, *arguments: object, save_dir: Path | None = None
) -> str:
    """The message of a run that must end with status 2 before it trains or writes anything."""
    assert train(data, *arguments, save_dir=save_dir) == 2
    captured = capsys.readouterr()
    assert "epoch 1" not in captured.err, "trained before it was refused"
    assert save_dir is None or not checkpoints(save_dir)
    return error_line(captured.err)
