"""From a table to the commands of a run: words filled in, and which of them are done already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from cgc.engine.checkpoint import checkpoints_in
from cgc.errors import InputError
from cgc.reproduce.model import Command, Evaluation, Input, Preparation, Row, Table, Training
from cgc.reproduce.scale import FULL, TINY, last_value, tiny_words, without

Kind = Literal["prepare", "train", "evaluate"]

# What may differ between two runs of a command that makes the same thing; the last two keep a batch's parts as they are
# on another number of GPUs.
_MACHINE = {"-j": 1, "--device": 1, "-g": 1, "--num-gpus": 1, "--negatives": 1, "--accumulate": 1}


@dataclass(frozen=True)
class Settings:
    """Of all commands of a run. ``inputs``: where DATA and the others are. ``extra``: words after every training's.

    ``gpus``: processes, each with a GPU of its own; 0 the CPU; None what the scripts find by themselves.
    """

    out: Path
    inputs: Mapping[str, str]
    scale: str = FULL
    extra: Sequence[str] = ()
    workers: int | None = None
    device: str | None = None
    gpus: int | None = None


@dataclass(frozen=True)
class Job:
    """One command of a run.

    ``words``: the script or ``cgc NAME``, then its arguments. ``processes``: started by torchrun if more than one.
    ``product``: what is there when it is done, completely or (``whole`` false) perhaps in part. ``after``: what an
    evaluation must be younger than.
    """

    title: str
    kind: Kind
    name: str
    words: tuple[str, ...]
    folder: Path
    product: Path
    after: Path | None = None
    processes: int = 1
    whole: bool = True

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def record(self) -> Path:
        return self.folder / f".{self.name}.job.json"

    def same_work(self) -> list[str]:
        """The words that decide what comes out."""
        return without(self.words, _MACHINE)

    def is_done(self) -> bool:
        """Raises InputError where something was made here by another command, which a run would mix with its own."""
        before = read_json(self.record)
        changed = before is not None and before.get("words") != self.same_work()
        if changed and self.kind != "evaluate" and self._left_something():
            raise InputError(
                f"{self.folder} was made by another command, which {self.log} names; choose another --out or remove it"
            )
        if self.kind == "train":
            return bool((read_json(self.product) or {}).get("completed"))
        if self.kind == "prepare":
            return self.product.exists() and (self.whole or bool((before or {}).get("finished")))
        if changed or read_json(self.product) is None:
            return False
        if self.after is None:
            return True
        return self.after.exists() and self.product.stat().st_mtime >= self.after.stat().st_mtime

    def _left_something(self) -> bool:
        return self.product.exists() or self.has_begun()

    def has_begun(self) -> bool:
        """Whether a training was broken off here, and will go on."""
        return self.kind == "train" and bool(checkpoints_in(self.folder))


def read_json(path: Path) -> dict[str, Any] | None:
    """An object in a JSON file; None where there is none, or a broken one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def words_of(command: Command, scale: str) -> list[str]:
    words = command.line.split()
    return tiny_words(words, command.tiny) if scale == TINY else words


def filled_in(words: Sequence[str], places: Mapping[str, str]) -> tuple[str, ...]:
    """Words in capitals, and the first part of paths, replaced by what they stand for."""
    found = []
    for word in words:
        head, slash, rest = word.partition("/")
        found.append(f"{places[head]}{slash}{rest}" if head in places else word)
    return tuple(found)


def inputs_of(table: Table, rows: Sequence[Row], scale: str) -> list[Input]:
    """Those of the table's inputs that the rows' commands name."""
    commands: list[Command] = list(table.preparations)
    commands += [each for row in rows for each in (row.training, *row.evaluations)]
    named = {word.partition("/")[0] for command in commands for word in words_of(command, scale)}
    return [need for need in table.inputs if need.name in named]


def can_run(evaluation: Evaluation) -> bool:
    """Whether the package is installed that the evaluation takes."""
    return not evaluation.needs or find_spec(evaluation.needs) is not None


def is_pretrained(row: Row, scale: str) -> bool:
    return row.pretrained and scale == FULL


class Plan:
    """The jobs of a table's rows for some seeds, in the order in which they run."""

    def __init__(self, table: Table, rows: Sequence[Row], seeds: Sequence[int], settings: Settings) -> None:
        self.table, self.rows, self.seeds, self.settings = table, rows, seeds, settings
        self.work = settings.out / table.name
        self.jobs = self._jobs()

    def _jobs(self) -> list[Job]:
        jobs = [self.preparation(each) for each in self.table.preparations]
        for seed in self.seeds:
            for row in self.rows:
                if not is_pretrained(row, self.settings.scale):
                    jobs.append(self.training(row.training, seed))
                jobs += [self.evaluation(row, each, seed) for each in self.runnable(row)]
        unique = {(job.folder, job.name): job for job in jobs}  # rows may share a training
        return list(unique.values())

    def runnable(self, row: Row) -> list[Evaluation]:
        """Evaluations whose package is installed; at the tiny scale regions are boxes, which take none of COCO's."""
        tiny = self.settings.scale == TINY
        return [e for e in row.evaluations if can_run(e) or (tiny and e.needs == "pycocotools")]

    def run_folder(self, training: Training, seed: int) -> Path:
        return self.settings.out / "runs" / f"{training.name}-seed{seed}"

    def scores_file(self, row: Row, evaluation: Evaluation, seed: int) -> Path:
        return self.work / f"{row.name}-seed{seed}" / f"{evaluation.name}.json"

    def _places(self, seed: int = 0, run: Path | None = None) -> dict[str, str]:
        places = {**self.settings.inputs, "WORK": str(self.work), "SEED": str(seed)}
        return places if run is None else {**places, "RUN": str(run)}

    def preparation(self, command: Preparation) -> Job:
        places = self._places()
        product = Path(filled_in([command.product], places)[0])
        words = filled_in(words_of(command, self.settings.scale), places)
        return Job(
            f"prepare {command.name}",
            "prepare",
            command.name,
            words,
            self.work,
            product,
            whole=command.whole,
        )

    def training(self, training: Training, seed: int) -> Job:
        settings, folder = self.settings, self.run_folder(training, seed)
        words = filled_in(words_of(training, settings.scale), self._places(seed, folder))
        words += (
            "--resume",
            "auto",
            *_parts(training, settings.gpus),
            *settings.extra,
            *self._machine("--num-gpus"),
        )
        return Job(
            f"train {training.name}, seed {seed}",
            "train",
            "train",
            words,
            folder,
            folder / "result.json",
            processes=max(settings.gpus or 1, 1),
        )

    def checkpoint(self, training: Training, seed: int) -> Path:
        """The last one of a finished run."""
        epochs = last_value(self.training(training, seed).words, "--epochs")
        return self.run_folder(training, seed) / f"checkpoint_{int(epochs or 0):03d}.pth.tar"

    def evaluation(self, row: Row, evaluation: Evaluation, seed: int) -> Job:
        out = self.scores_file(row, evaluation, seed)
        checkpoint = None if is_pretrained(row, self.settings.scale) else self.checkpoint(row.training, seed)
        words = filled_in(words_of(evaluation, self.settings.scale), self._places(seed))
        at = words.index("MODEL")
        model = ("--pretrained",) if checkpoint is None else ("--resume", str(checkpoint))
        words = (*words[:at], *model, *words[at + 1 :], *self._machine("-g"), "--out", str(out))
        return Job(
            f"evaluate {row.name}, {evaluation.name}, seed {seed}",
            "evaluate",
            evaluation.name,
            words,
            out.parent,
            out,
            checkpoint,
            processes=max(self.settings.gpus or 1, 1),
        )

    def _machine(self, gpus_option: str) -> list[str]:
        """Options of the machine: where there is one process, how many GPUs it takes."""
        settings = self.settings
        words = [] if settings.workers is None else ["-j", str(settings.workers)]
        words += [] if settings.device is None else ["--device", settings.device]
        return words + ([gpus_option, str(settings.gpus)] if settings.gpus in (0, 1) else [])


def _parts(training: Training, gpus: int | None) -> list[str]:
    """What keeps the published parts of a batch, each with statistics and negatives of its own, on other GPUs."""
    if not training.replicas or not gpus or training.replicas % gpus:
        return []
    words = ["--negatives", "local"]
    parts = training.replicas // gpus
    return words if parts == 1 else [*words, "--accumulate", str(parts)]
