"""Training and validation: `python -m cgc train`, and the published scripts as views of it."""

from __future__ import annotations

from collections.abc import Sequence

from cgc.commands.options import run_command
from cgc.commands.train_options import TrainOptions, parse
from cgc.commands.train_presets import PRESETS
from cgc.errors import InputError


def main(argv: Sequence[str] | None = None, *, preset: str = "cgc") -> int:
    """Train or validate; 0, or 2 for unusable input, 1 for a failed run, 128 + signal when stopped."""
    options = parse(argv, PRESETS[preset])
    return run_command(lambda: _run(options))


def _run(options: TrainOptions) -> int:
    from cgc.commands.training_run import TrainingRun

    if options.multiprocessing_distributed or options.world_size > 1 or options.rank > 0:
        raise InputError(
            "training over several processes is not available yet; started plainly, the script uses every "
            "visible GPU through DataParallel: leave out --multiprocessing-distributed, --world-size and --rank"
        )
    run = TrainingRun(options)
    return run.validate_only() if options.evaluate else run.train()
