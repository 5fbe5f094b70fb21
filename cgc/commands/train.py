"""Training and validation: `python -m cgc train`, and the published scripts as views of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from cgc.commands.options import run_command
from cgc.commands.train_options import TrainOptions, parse
from cgc.commands.train_presets import PRESETS
from cgc.engine.processes import joined_processes, own_device
from cgc.engine.runtime import pick_device
from cgc.errors import InputError


def main(argv: Sequence[str] | None = None, *, preset: str = "cgc") -> int:
    """Train or validate; 0, or 2 for unusable input, 1 for a failed run, 128 + signal when stopped."""
    options = parse(argv, PRESETS[preset])
    return run_command(lambda: _run(options))


def _run(options: TrainOptions) -> int:
    from cgc.commands.training_run import TrainingRun

    refuse_old_launchers(options)
    device = own_device(pick_device("cpu" if options.num_gpus == 0 else options.device, options.gpu))
    torch.backends.cudnn.benchmark = True  # views have one size, so the search for the fastest kernels pays
    with joined_processes(device, options.dist_backend) as processes:
        run = TrainingRun(options, device, processes)
        return run.validate_only() if options.evaluate else run.train()


def _script() -> str:
    """What torchrun is to be given to start this command."""
    name = Path(sys.argv[0]).name
    return name if name.endswith(".py") and name != "__main__.py" else f"-m cgc {' '.join(sys.argv[1:2])}"


def refuse_old_launchers(options: TrainOptions) -> None:
    """The published options that started processes from within; torchrun does that now.

    Raises InputError with the command to use.
    """
    if not (options.multiprocessing_distributed or options.world_size > 1 or options.rank > 0):
        return
    words = ["torchrun", "--nproc_per_node=gpu"]
    if options.world_size > 1:  # the old options count machines
        url = options.dist_url or ""
        host = url.removeprefix("tcp://") if url.startswith("tcp://") else "HOST:PORT"
        words += [f"--nnodes={options.world_size}", f"--node_rank={max(options.rank, 0)}"]
        words += ["--rdzv_backend=c10d", f"--rdzv_endpoint={host}"]
    raise InputError(
        f"several processes are started by torchrun: {' '.join(words)} {_script()} …, without "
        "--multiprocessing-distributed, --world-size, --rank and --dist-url (plain python uses every visible GPU "
        "through DataParallel)"
    )
