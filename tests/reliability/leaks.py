"""Memory, tensors, open files and hooks of long work in one process: training steps, then evaluated images.

python -m tests.reliability.leaks --steps 1000 --images 1000
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cgc.commands.evaluate import main as evaluate
from cgc.commands.train import main as train
from cgc.data.shapes import write_shapes
from cgc.engine import loop
from cgc.evaluation import run as evaluation_run
from tests.reliability.damaged import memory


@dataclass(frozen=True)
class Held:
    """What a process holds on to: resident MB, tensors, open files, hooks on modules."""

    megabytes: float
    tensors: int
    files: int
    hooks: int


def hooks_of(modules: Iterable[nn.Module]) -> int:
    """How many hooks are registered on them."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(each, kind)) for each in modules for kind in kinds)


def held() -> Held:
    gc.collect()
    things = [each for each in gc.get_objects() if isinstance(each, (torch.Tensor, nn.Module))]
    modules = [each for each in things if isinstance(each, nn.Module)]
    files = len(os.listdir("/proc/self/fd"))
    return Held(memory(), len(things) - len(modules), files, hooks_of(modules))


def watched(place: Any, name: str, every: int, work: Callable[[], int]) -> list[Held]:
    """What is held after every so many calls of ``place.name`` while ``work`` goes on."""
    function, calls, found = getattr(place, name), 0, []

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        result = function(*arguments, **named)
        calls += 1
        if calls % every == 0:
            found.append(held())
        return result

    setattr(place, name, counted)
    try:
        assert work() == 0
    finally:
        setattr(place, name, function)
    return found


def training(data: Path, run: Path, steps: int) -> list[Held]:
    """After each fifth of so many steps of CGC."""
    batch, images = 6, 36
    epochs = -(-steps // (images // batch))
    words = ["-a", "resnet_tiny", "--image-size", "32", "-b", str(batch), "-j", "0", "--device", "cpu"]
    words += ["--epochs", str(epochs), "--save_dir", str(run), "--lr", "0.01", "-p", "50"]
    return watched(loop.Trainer, "_step", steps // 5, lambda: train([str(data), *words]))


def evaluating(data: Path, run: Path, images: int) -> list[Held]:
    """After each fifth of so many images, with every kind of score."""
    batch = 10
    words = [str(run / "model_best.pth.tar"), str(data / "eval"), "--classes", str(data / "train"), "-j", "0"]
    words += [
        "--metrics",
        "ch,pg,spg,insertion,deletion,consistency,top1",
        "--input_resize",
        "32",
        "-b",
        str(batch),
    ]
    words += [
        "--insertion-size",
        "32",
        "--image-size",
        "32",
        "--bootstrap",
        "0",
        "--device",
        "cpu",
        "--steps",
        "4",
    ]
    return watched(evaluation_run, "classification_columns", images // batch // 5, lambda: evaluate(words))


def both(place: Path, steps: int, images: int) -> tuple[list[Held], list[Held]]:
    """Of training on few images, then of evaluating its best checkpoint on many."""
    write_shapes(place / "few", train_per_class=6, val_per_class=1, size=32, seed=0)
    write_shapes(place / "many", train_per_class=1, val_per_class=-(-images // 6), size=32, seed=1)
    trained = training(place / "few", place / "run", steps)
    return trained, evaluating(place / "many", place / "run", images)


def table(what: str, found: list[Held]) -> str:
    rows = [f"{each.megabytes:8.1f} {each.tensors:8d} {each.files:6d} {each.hooks:6d}" for each in found]
    return "\n".join([f"{what}: resident MB, tensors, open files, hooks after each fifth", *rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        trained, evaluated = both(Path(scratch), options.steps, options.images)
    print(table(f"{options.steps} training steps", trained))
    print(table(f"{options.images} evaluated images", evaluated))
    sys.exit(0)
