"""Training over two processes, as torchrun starts them: the run of one, stopping, going on, a process that dies."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.commands.runs import checkpoint, checkpoints, result, rows, training_folder
from tests.data.images import save_photograph

ROOT = Path(__file__).parents[2]

# The training command with frozen batch norm: its statistics are what two processes do not share. At step AT of the
# run, process 1 of 2 asks itself to end, or is gone.
LAUNCHER = """
import os, signal, sys
import torch.nn.functional as F
from torch import nn

def frozen(self, x):
    return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

nn.BatchNorm2d.forward = frozen
from cgc.commands.train import main
from cgc.engine import loop

step, count = loop.Trainer._step, 0

def counted(self, *arguments):
    global count
    count += 1
    if count == int(os.environ.get("AT", "-1")) and os.environ.get("RANK") == "1":
        if os.environ["DO"] == "die":
            os._exit(9)
        os.kill(os.getpid(), signal.SIGTERM)
    step(self, *arguments)

loop.Trainer._step = counted
sys.exit(main(preset=os.environ.get("PRESET", "cgc")))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 training images: of batches of 4, the last one has 2."""
    folder = tmp_path_factory.mktemp("processes")
    data = training_folder(folder / "data", (4, 3))
    for k in range(2):
        save_photograph(data / "train" / "ant" / f"more{k}.png", 36, 36, 700 + k)
    for k in range(5):
        save_photograph(data / "unlabeled" / f"{k}.png", 40, 36, 500 + k)
    (data / "val" / "cow" / "0.png").write_bytes(b"no image")
    (folder / "train.py").write_text(LAUNCHER)
    return folder


FIXED = "-a resnet_tiny --image-size 32 -j 0 -b 4 --epochs 2 -p 2 --device cpu --lr 0.01"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone")


def run(place: Path, processes: int, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    data = [] if words and isinstance(words[0], Path) else ["data"]
    command = [str(place / "train.py"), *data, *FIXED.split(), *map(str, words)]
    if processes > 1:
        command = [*TORCHRUN, f"--nproc_per_node={processes}", *command]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, *command], cwd=place, env=variables, capture_output=True, text=True, timeout=400
    )


def same_run(one: Path, other: Path) -> None:
    """Equal but for rounding: sums of gradients have another order."""
    for a, b in zip(rows(one), rows(other), strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx(
            {k: float(v) for k, v in b.items()}, rel=1e-4
        )
    first, second = (checkpoint(folder / "checkpoint_002.pth.tar") for folder in (one, other))
    for name, value in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][name], value, rtol=1e-4, atol=1e-6)
    assert second["progress"]["sums"] == first["progress"]["sums"] == {}


@pytest.fixture(scope="module")
def one(place: Path) -> Path:
    done = run(place, 1, "--save_dir", "one")
    assert done.returncode == 0, done.stderr
    return place / "one"


def test_two_processes_give_the_run_of_one(place: Path, one: Path) -> None:
    """Views, loss, gradients, validation and records; one process speaks."""
    done = run(place, 2, "--save_dir", "two")
    assert done.returncode == 0, done.stderr
    same_run(one, place / "two")
    assert done.stdout.count("epoch 2: ") == 1
    assert done.stderr.count("each image is contrasted with 3 others") == 1
    assert done.stderr.count("val/cow/0.png") == 1
    assert result(place / "two")["unreadable_images"] == result(one)["unreadable_images"]
    assert checkpoints(place / "two") == checkpoints(one)


@pytest.mark.slow
def test_local_negatives_are_another_run(place: Path, one: Path) -> None:
    """As in DataParallel, where each replica contrasts its own images alone."""
    done = run(place, 2, "--save_dir", "local", "--negatives", "local", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert "contrasted with 1 other\n" in done.stderr
    local, gathered = rows(place / "local")[0], rows(one)[0]
    assert float(local["train_consistency"]) < float(gathered["train_consistency"]) - 0.1


@pytest.mark.slow
def test_one_process_asked_to_stop_stops_both_and_any_number_continues(place: Path, one: Path) -> None:
    stopped = run(place, 2, "--save_dir", "stopped", AT="5", DO="stop")
    assert stopped.returncode != 0
    assert "to continue: the same command with --resume stopped/checkpoint_001_step000002" in stopped.stderr
    latest = place / "stopped" / "checkpoint_001_step000002.pth.tar"
    assert len(checkpoint(latest)["random_states_of_others"]) == 1
    continued = run(place, 1, "--save_dir", "stopped", "--resume", latest)
    assert continued.returncode == 0, continued.stderr
    same_run(one, place / "stopped")


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_a_message(place: Path) -> None:
    died = run(place, 2, "--save_dir", "died", AT="6", DO="die")
    assert died.returncode != 0
    assert checkpoints(place / "died") == ["checkpoint_001.pth.tar", "model_best.pth.tar"]
    assert "another process of this run is gone" in died.stderr or "SIGTERM: finishing" in died.stderr
    continued = run(place, 2, "--save_dir", "died", "--resume", "died/checkpoint_001.pth.tar")
    assert continued.returncode == 0, continued.stderr
    assert checkpoint(place / "died" / "checkpoint_002.pth.tar")["epoch"] == 2


@pytest.mark.slow
def test_accumulated_steps_are_those_of_one_process(place: Path) -> None:
    """Where no image meets another in the loss: parts of two processes are cut from other images than one's."""
    alone = ("--method", "l2", "--map-floor", "0", "--lambda", "1")
    for processes, more in ((1, ()), (2, ("--accumulate", "2"))):
        done = run(place, processes, *alone, *more, "--save_dir", f"sum{processes}")
        assert done.returncode == 0, done.stderr
    same_run(place / "sum1", place / "sum2")


@pytest.mark.slow
def test_strict_ends_all_processes_with_one_name(place: Path) -> None:
    strict = place / "strict"
    shutil.copytree(place / "data", strict)
    (strict / "train" / "cow" / "0.png").write_bytes(b"no image")
    refused = run(place, 2, strict, "--save_dir", "strictly", "--strict")
    assert refused.returncode != 0
    assert refused.stderr.count("unreadable image (--strict): ") == 1
    assert "train/cow/0.png" in refused.stderr


@pytest.mark.slow
def test_a_signal_to_torchrun_reaches_the_run(place: Path, one: Path) -> None:
    """A scheduler may tell the launcher alone."""
    words = ["data", *FIXED.split(), "--epochs", "60", "--save_dir", "told"]
    command = [sys.executable, *TORCHRUN, "--nproc_per_node=2", str(place / "train.py"), *words]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=place, env=variables, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (place / "told" / "metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
        said = process.communicate(timeout=120)[1]
    assert "SIGTERM: finishing" in said
    path = re.findall(r"--resume (\S+)", said)[-1]
    epochs = checkpoint(place / path)["epoch"] + 1
    continued = run(place, 2, "--save_dir", "told", "--resume", path, "--epochs", str(epochs))
    assert continued.returncode == 0, continued.stderr
    assert len(rows(place / "told")) == epochs


@pytest.mark.slow
def test_unlabelled_images_are_shared_too(place: Path) -> None:
    for processes in (1, 2):
        done = run(place, processes, "--save_dir", f"semi{processes}", PRESET="semi-cgc")
        assert done.returncode == 0, done.stderr
    same_run(place / "semi1", place / "semi2")


@pytest.mark.slow
def test_what_processes_cannot_share_is_named(place: Path) -> None:
    refused = run(place, 2, "--save_dir", "refused", "-b", "5")
    assert refused.returncode != 0
    assert "error: -b 5 cannot be shared equally by 2 processes; 4 or 6 can" in refused.stderr
    assert not (place / "refused").exists()


@pytest.mark.slow
def test_fewer_images_than_processes_are_named(place: Path) -> None:
    lonely = place / "lonely"
    for split in ("train", "val"):
        save_photograph(lonely / split / "ant" / "0.png", 36, 36, 1)
    refused = run(place, 2, lonely, "--save_dir", "refused")
    assert "1 images, fewer than there are processes" in refused.stderr
