"""``--config FILE.json``: the options of an earlier run, taken from what it left behind."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cgc.errors import InputError


def add_config(parser: argparse._ActionsContainer, written: str) -> None:
    """The option itself; ``written`` says which file has them."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE.json",
        help=f"take the options that {written} holds, or any by their names; those of the command line win",
    )


def config_of(argv: Sequence[str] | None) -> tuple[Path | None, dict[str, Any]]:
    """The file that a command line names, and what it holds. Raises InputError for a file that is no JSON object."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", type=Path)
    path: Path | None = early.parse_known_args(argv)[0].config
    if path is None:
        return None, {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({str(error)[:100]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object of options")
    return path, content


def apply_config(
    parser: argparse.ArgumentParser, path: Path, content: Mapping[str, Any], *, apart: Collection[str] = ()
) -> None:
    """Make the values of a file the parser's defaults. Those named in ``apart`` are passed over, as is null.

    Raises InputError for an option that does not exist, or a value that it does not take.
    """
    known = {name: action for action in parser._actions for name in _names(action)}
    known |= {action.dest: action for action in parser._actions}
    for name, value in content.items():
        if name in apart or value is None or (name in parser._defaults and name not in _dests(parser)):
            continue
        action = known.get(name.replace("-", "_"))
        if action is None or action.dest in ("help", "version", "config"):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"{path}: no option {name!r}{hint}")
        try:
            action.default = _value(action, value)
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            raise InputError(f"{path}: {name}: {error}") from error
        action.required = False
        if not action.option_strings:
            action.nargs = "*" if action.nargs == "+" else "?"


def check_config(parser: argparse.ArgumentParser, arguments: argparse.Namespace, path: Path | None) -> None:
    """Take the option out of what was parsed; end with status 2 where it was abbreviated and so not seen before."""
    if arguments.config != path:
        parser.error("--config has to be written in full")
    del arguments.config


def _dests(parser: argparse.ArgumentParser) -> set[str]:
    return {action.dest for action in parser._actions}


def _names(action: argparse.Action) -> set[str]:
    """An option's names without dashes in front, `_` for those within."""
    return {action.dest, *(text.lstrip("-").replace("-", "_") for text in action.option_strings)}


def _value(action: argparse.Action, value: Any) -> Any:
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither true nor false")
        return value
    if action.nargs in ("+", "*"):
        return [_one(action, each) for each in (value if isinstance(value, list) else [value])]
    return _one(action, ",".join(map(str, value)) if isinstance(value, list) else value)


def _one(action: argparse.Action, value: Any) -> Any:
    if isinstance(value, (dict, list, bool)):
        raise ValueError(f"{str(value)[:60]} is no value of this option")
    text = str(value)
    if "\0" in text:
        raise ValueError("holds a zero byte")
    found = action.type(text) if callable(action.type) else text
    if action.choices is not None and found not in action.choices:
        raise ValueError(f"{text!r} is none of {', '.join(map(str, action.choices))}")
    return found
