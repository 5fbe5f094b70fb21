"""What the commands share: argument types, argument groups, and the way they end."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import torch

import cgc
from cgc.data.workers import end_workers
from cgc.engine.runtime import keep_freed_memory
from cgc.errors import InputError, RunError

# What gloo says of a process that has ended.
_CUT_OFF = ("Connection closed by peer", "Connection reset by peer", "gloo/transport")


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def non_negative_int(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def non_negative_float(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def seed(text: str) -> int:
    value = non_negative_int(text)
    if value >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} does not fit into 63 bits")
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie in [0, 1)")
    return value


def percentage(text: str) -> Fraction:
    """The number as it is written: 0.1 as a float would round some halves down. Also a quotient, as it is recorded."""
    above, _, below = text.partition("/")
    if float(below or 1) == 0 or not 0 < float(above) / float(below or 1) <= 100:
        raise argparse.ArgumentTypeError(f"{text} does not lie above 0 and up to 100")
    return Fraction(text)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error, and ends with status 2. Has ``--version``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_argument("--version", action="version", version=f"cgc {cgc.__version__}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} ({self.prog} --help lists the options)\n")


def add_data_options(parser: argparse.ArgumentParser, *, batch_size: int) -> None:
    """``data``, ``-a``, ``-j``, ``-b``: as every published script spells them."""
    parser.add_argument("data", type=Path, help="dataset folder")
    parser.add_argument("-a", "--arch", help="architecture, e.g. resnet50")
    parser.add_argument(
        "-j", "--workers", type=non_negative_int, default=4, help="loader processes (default: %(default)s)"
    )
    parser.add_argument(
        "-b",
        "--batch-size",
        type=positive_int,
        default=batch_size,
        help="images per batch, over all GPUs (default: %(default)s)",
    )


def run_command(run: Callable[[], int]) -> int:
    """Run a command; what the user can mend becomes one line on stderr and a status, not a traceback.

    2 for input that cannot be used, 1 for a run that failed, 130 for an interrupt. Bugs keep their traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    keep_freed_memory()
    rank = os.environ.get("RANK", "0")
    who = "" if rank == "0" else f"[process {rank}] "
    try:
        return run()
    except InputError as error:
        print(f"{who}error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"{who}failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        end_workers()  # they may wait for a server
        print(f"{who}interrupted", file=sys.stderr)
        return 130
    except (torch.OutOfMemoryError, OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            print(f"{who}error: {error.filename}: {error.strerror}", file=sys.stderr)
            return 2
        reason = _known_failure(error)
        if reason is None:
            raise
        print(f"{who}failed: {reason}", file=sys.stderr)
        return 1


def _known_failure(error: Exception) -> str | None:
    """What to say of failures that are the machine's and not a bug's; None for all others."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return (
            "out of memory; a smaller -b or --image-size, --amp bf16 or, in training, --accumulate needs less "
            f"({text[:150]})"
        )
    if isinstance(error, OSError):
        return text
    if isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in _CUT_OFF):
        return (
            f"another process of this run is gone, and its own message says why ({text[:150]}); to continue: the same "
            "command, in training with --resume auto"
        )
    if "DataLoader worker" in text:
        return f"a loader process died ({text}); it may have run out of memory or of /dev/shm: fewer -j"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"torch.compile does not work here ({text}); leave out --compile"
    return None
