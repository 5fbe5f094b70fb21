"""`python -m cgc inspect FILE …`: what a checkpoint is, and what this project can do with it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgc.commands.options import Parser, run_command
from cgc.errors import InputError
from cgc.gradcam import GradCAMModel
from cgc.models.backbones import build_backbone
from cgc.models.checkpoint_layouts import Checkpoint, read_checkpoint
from cgc.models.key_names import KeyMatch, is_swav_finetuned, is_swav_pretrained, match_keys
from cgc.models.recognise import known, layout, recognise, u2net_size

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_NAMED = 5  # keys, classes and the like that are shown; the JSON has them all


def main(argv: Sequence[str] | None = None) -> int:
    """Describe checkpoints; 0, or 2 if one of them is not to be read (one line on stderr each)."""
    options = build_parser().parse_args(argv)
    return run_command(lambda: run(options))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m cgc inspect", description="Say what checkpoints are and what they hold.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="checkpoint of any layout")
    parser.add_argument(
        "-a",
        "--arch",
        help="compare with this architecture (the one that the file names or its keys belong to)",
    )
    parser.add_argument("--json", action="store_true", help="a list of everything, as JSON")
    return parser


def run(options: argparse.Namespace) -> int:
    """Describe one file after the other; those that cannot be read do not keep the others from being described."""
    if options.arch is not None:
        layout(options.arch)  # an unknown one is no fault of the files
    described, status = [], 0
    for path in options.files:
        try:
            facts = describe(path, options.arch)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
            continue
        described.append(facts)
        if not options.json:
            print(text(facts))
    if options.json:
        print(json.dumps(described, indent=2, ensure_ascii=False, default=str))
    return status


def describe(path: Path, arch: str | None = None) -> dict[str, Any]:
    """Facts of one file, in the order in which they are shown.

    Raises InputError if it is not a checkpoint that can be read safely, or for an unknown ``arch``.
    """
    file = read_checkpoint(path)
    facts: dict[str, Any] = {"file": str(path), "kind": _kind(file)}
    network = u2net_size(file.weights)
    if network is None or arch is not None:
        facts |= _as_classifier(file, arch)
    else:
        facts |= {"architecture": network, "architecture_from": "recognised by its keys"}
    facts |= _numbers(file.weights)
    extra = file.extra
    facts |= {name: _plain(extra[name]) for name in ("epoch", "best_acc1") if name in extra}
    if isinstance(extra.get("classes"), list):
        facts["class_names"] = [str(name) for name in extra["classes"]]
    options = extra.get("options", extra.get("args"))
    if isinstance(options, argparse.Namespace):
        options = vars(options)
    if isinstance(options, Mapping):
        facts["options"] = {str(name): _plain(value) for name, value in options.items()}
    return facts


def _kind(file: Checkpoint) -> str:
    size = u2net_size(file.weights)
    if size is not None:
        return f"U²-Net, a saliency network ({'full' if size == 'u2net' else 'small'} size), not a classifier"
    if is_swav_pretrained(file.weights):
        return "SwAV, pre-trained: a projector and prototypes, no classifier"
    if file.container is None:
        kind = "bare state_dict"
    elif {"classes", "options"} <= file.extra.keys():
        kind = "checkpoint of this project"
    elif "epoch" in file.extra or file.arch is not None:
        kind = f"checkpoint of the released layout (weights under {file.container!r})"
    else:
        kind = f"weights under {file.container!r}"
    if "optimizer" in file.extra:
        kind += ", with the state of training"
    return f"SwAV, fine-tuned: {kind}" if is_swav_finetuned(file.weights) else kind


def _as_classifier(file: Checkpoint, arch: str | None) -> dict[str, Any]:
    """Architecture, classes, the share of keys that agree, and how its heatmaps are computed."""
    source = "given with -a"
    if arch is None and known(file.arch):
        arch, source = file.arch, "named in the file"
    if arch is None:
        found = recognise(file.weights)
        arch, source = found.arch or found.nearest, "recognised by its keys" if found.arch else "nearest"
        if arch is None:
            said: dict[str, Any] = {"architecture": None, "architecture_from": "not recognised"}
            if found.candidates:
                said["candidates"] = list(found.candidates)
            return said | {"named_architecture": file.arch}
    try:
        fit = match_keys(layout(arch), file.weights)
    except ValueError as error:
        raise InputError(f"{file.path}, as {arch}: {error}") from error
    facts: dict[str, Any] = {
        "architecture": arch,
        "architecture_from": source,
        "named_architecture": file.arch,
    }
    facts |= {"classes": None if fit.trunk_fits else file.num_classes, **_keys(fit)}
    if fit.file_classes is not None:
        facts["classes"] = fit.file_classes
    return facts | ({"closed_form": _closed_form(arch, file)} if fit.trunk_fits else {})


def _keys(fit: KeyMatch) -> dict[str, Any]:
    """How keys agree; a classifier of another size than the one compared with is no disagreement."""
    counters = f"{len(fit.counters)} counts of batches (num_batches_tracked) are not in it"
    return {
        "keys_matched": len(fit.agreeing),
        "keys_of_architecture": len({*fit.agreeing, *fit.missing, *fit.misshapen, *fit.counters}),
        "missing": list(fit.missing),
        "unexpected": list(fit.unexpected),
        "of_another_shape": [name for name in fit.misshapen if name not in fit.agreeing],
        "notes": [*fit.notes, *([counters] if fit.counters and fit.trunk_fits else [])],
    }


def _closed_form(arch: str, file: Checkpoint) -> str | None:
    """``average`` or ``maximum``, the pooling before the linear layer, or None where heatmaps need a backward pass."""
    options = file.extra.get("options")
    maxpool = isinstance(options, dict) and options.get("maxpool") is True
    with torch.random.fork_rng(devices=[]):
        try:
            model = GradCAMModel(build_backbone(arch, 2, maxpool=maxpool)).eval()
        except ValueError:  # a network of timm's without a feature grid
            return None
    if not model.closed_form or model.pooled_linear is None:
        return None
    return "average" if model.pooled_linear.pool == "avg" else "maximum"


def _numbers(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    learnt = {name: w for name, w in weights.items() if not name.endswith(_STATISTICS)}
    dtypes = sorted({str(w.dtype).removeprefix("torch.") for w in learnt.values()})
    odd = [name for name, w in weights.items() if w.is_floating_point() and not w.isfinite().all()]
    return {
        "parameters": sum(w.numel() for w in learnt.values()),
        "dtype": ", ".join(dtypes),
        "not_finite": odd,
    }


def _plain(value: Any) -> Any:
    """A value as JSON takes it: one-element tensors and NumPy scalars are numbers."""
    if isinstance(value, Tensor) and value.numel() != 1:
        return str(value)
    try:
        return value.item() if hasattr(value, "item") else value
    except RuntimeError:  # a tensor without values
        return str(value)


def text(facts: Mapping[str, Any]) -> str:
    """The facts of one file for a reader."""
    lines = {"kind": facts["kind"], "architecture": _architecture(facts)}
    names = facts.get("class_names")
    if facts.get("classes") is not None or names:
        shown = f": {_some(names)}" if names else ""
        lines["classes"] = f"{facts.get('classes') or len(names or ())}{shown}"
    lines |= {key: str(facts[key]) for key in ("epoch", "best_acc1") if key in facts}
    if "keys_matched" in facts:
        lines["keys"] = "; ".join(
            [f"{facts['keys_matched']} of {facts['keys_of_architecture']} match", *facts["notes"]]
        )
        for kind in ("missing", "unexpected", "of_another_shape"):
            if facts[kind]:
                lines[kind.replace("_", " ")] = f"{len(facts[kind])}: {_some(facts[kind])}"
    lines["parameters"] = f"{facts['parameters']:,}, {facts['dtype']}"
    if facts["not_finite"]:
        lines["not finite"] = f"{len(facts['not_finite'])}: {_some(facts['not_finite'])}"
    if "closed_form" in facts:
        pool = facts["closed_form"]
        lines["heatmaps"] = (
            f"closed form ({pool} pooling, one linear layer)" if pool else "by a backward pass"
        )
    if facts.get("options"):
        given = (f"{k} {v}" for k, v in facts["options"].items() if v not in (None, False))
        lines["options"] = ", ".join(given)
    width = max(map(len, lines)) + 2
    return "\n".join(
        [facts["file"], *(f"  {name:<{width}}{_printable(value)}" for name, value in lines.items())]
    )


def _printable(text: str) -> str:
    """What a file says, without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _architecture(facts: Mapping[str, Any]) -> str:
    arch, source, named = (facts.get(k) for k in ("architecture", "architecture_from", "named_architecture"))
    said = f"; the file names {named}" if named and named != arch else ""
    if arch is None:
        between = f"one of {', '.join(facts['candidates'])}" if "candidates" in facts else "not recognised"
        return f"{between}{said}; compare with -a NAME"
    if source == "nearest":
        return f"not recognised{said}; {arch} comes nearest"
    return f"{arch} ({source}{said})"


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''}"
