"""Every command of README and docs: its program exists, and its own parser takes the whole line.

The lines are read by bash with stand-ins for the programs (:mod:`tests.documents`), so loops, quotes and continued
lines mean what they mean to a reader. `tests/test_documents_run.py` really runs them.
"""

from __future__ import annotations

import argparse
import itertools
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cgc.__main__ import COMMANDS
from cgc.__main__ import main as cgc_main
from tests.documents import DOCUMENTS, PROGRAMS, ROOT, blocks, documented, name_of, prose, typed

WITH_COMMANDS = [path for path in DOCUMENTS if any(block.commands for block in blocks(path))]
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "TorchRay" / "README.md", ROOT / "RISE" / "README.md"]
# Words of the documents that stand for other words than a path.
MEANING = {"METHOD": ["--method", "cgc"], "SCRIPT": ["train_eval_cgc.py"], "SEED": ["0"]}
_MODULES = ("cgc", "pytest", "pip", "venv")
_HARNESSES = tuple(
    f"tests.reliability.{name}" for name in ("kills", "damaged", "leaks", "fuzz", "fuzz_guided")
)


class _Reached(BaseException):
    """A program's parser, caught where it was about to read the command line."""

    def __init__(self, parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> None:
        self.parser, self.argv = parser, list(sys.argv[1:] if argv is None else argv)


def _caught(start: Callable[[], object]) -> _Reached:
    """The parser of a program, started and held up before it reads its command line."""

    def stop(
        self: argparse.ArgumentParser, args: Sequence[str] | None = None, namespace: object = None
    ) -> None:
        raise _Reached(self, args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(_Reached) as reached:
            start()
    return reached.value


def _script(path: Path, words: Sequence[str]) -> _Reached:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [path.name, *words])
        patch.syspath_prepend(str(path.parent))
        return _caught(lambda: runpy.run_path(str(path), run_name="__main__"))


def _module(name: str, words: Sequence[str]) -> _Reached:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *words])
        patch.delitem(sys.modules, name, raising=False)
        return _caught(lambda: runpy.run_module(name, run_name="__main__"))


def parser_of(words: Sequence[str]) -> _Reached | None:
    """The parser of `python …` or `cgc …`, and what it is given; None for what needs none and is fine as it is.

    Raises AssertionError for a program, module or script that does not exist.
    """
    if words[0] == "cgc":
        return parser_of(["python", "-m", *words])
    rest = list(words[1:])
    if rest[0] == "-c":
        compile(rest[1], "-c", "exec")
        return None
    if rest[0] == "-m":
        module, *rest = rest[1:]
        if module in _HARNESSES:
            return _module(module, rest)
        assert module in _MODULES, f"python -m {module}"
        if module != "cgc":
            return None
        assert rest[0] in COMMANDS, f"no such command: cgc {rest[0]}"
        return _caught(lambda: cgc_main(rest))
    assert (ROOT / rest[0]).is_file(), f"no such script: {rest[0]}"
    return _script(ROOT / rest[0], rest[1:])


def launched(words: Sequence[str]) -> list[str]:
    """What `torchrun …` starts, its own options checked."""
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(list(words[1:]))
    return [
        "python",
        *(["-m"] if options.module else []),
        options.training_script,
        *options.training_script_args,
    ]


def check(words: Sequence[str]) -> None:
    """Raises AssertionError or SystemExit for a command line that its program would refuse."""
    program, *rest = words
    if program in ("python", "python3", "cgc"):
        reached = parser_of(words)
        if reached is not None:
            reached.parser.parse_args(reached.argv)
    elif program == "torchrun":
        check(launched(words))
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets), f"no such target: {words}"
    elif program == "pip":
        check_pip(rest)
    elif program in ("bash", "sbatch"):
        assert (ROOT / rest[-1]).is_file(), f"no such script: {rest[-1]}"
    else:
        raise AssertionError(f"{program}: {' '.join(rest)}")


def check_pip(rest: Sequence[str]) -> None:
    """`pip install` of the project, of its extras, of a requirements file, or of something that one of these names."""
    assert rest[0] == "install", rest
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = dict(re.findall(r"^([\w-]+) = \[(.*?)\]", section, re.MULTILINE | re.DOTALL))
    named = [line for path in ROOT.glob("requirements*.txt") for line in path.read_text().splitlines()]
    named += re.findall(r'"(.*?)"', section)
    known = {re.split(r"[\[<>=]", line)[0] for line in named}
    for before, word in itertools.pairwise(rest):
        if before in ("-r", "--requirement"):
            assert (ROOT / word).is_file(), word
        elif own := re.fullmatch(r"\.(?:\[([\w,]+)\])?", word):
            assert set((own[1] or "").split(",")) - {""} <= set(extras), word
        elif not word.startswith("-"):
            assert re.split(r"[\[<>=]", word)[0] in known, word


def meant(words: Sequence[str]) -> list[str]:
    return [each for word in words for each in MEANING.get(word, [word])]


def complaint(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is wrong with a command line; '' for a good one."""
    try:
        check(meant(words))
    except (AssertionError, SyntaxError, SystemExit) as error:
        asked_for_help = isinstance(error, SystemExit) and error.code == 0
        return "" if asked_for_help else f"{error} {capsys.readouterr().err}"
    return ""


@pytest.mark.parametrize("document", [*WITH_COMMANDS, *OTHERS], ids=name_of)
def test_every_command_is_one(document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [(words, complaint(words, capsys)) for words in documented(document, tmp_path)]
    wrong = [f"{shlex.join(words)}: {said}" for words, said in found if said]
    assert not wrong, "\n".join(wrong)


def _mentions(document: Path) -> Iterator[list[str]]:
    """Commands and options in the running text: `…` stands for what is left out."""
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(document)):
        words = [word for word in span.split() if word not in ("…", "\\|")]
        is_program = words[:1] != ["cgc"] or words[1:2] == [] or words[1] in COMMANDS  # cgc is a method, too
        if len(words) > 1 and words[0] in PROGRAMS and is_program:
            yield words


@pytest.mark.parametrize("document", [*DOCUMENTS, *OTHERS], ids=name_of)
def test_every_command_in_the_text_exists(document: Path) -> None:
    for words in _mentions(document):
        if words[0] == "torchrun":
            at = next((i for i, word in enumerate(words) if word == "-m" or word.endswith(".py")), None)
            own = words[1:at]
            assert all(name in torchrun_options() for name in _names(own)), words
            if at is None:
                continue
            words = ["python", *words[at:]]
        if words[0] in ("python", "python3", "cgc"):
            reached = parser_of(meant(words))
            if reached is not None:
                assert set(_names(reached.argv)) <= option_names(reached.parser), words
        else:
            check(words)


def _names(words: Sequence[str]) -> list[str]:
    return [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]


def option_names(parser: argparse.ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {name for each in action.choices.values() for name in option_names(each)}
    return found


def torchrun_options() -> set[str]:
    from torch.distributed.run import get_args_parser

    return option_names(get_args_parser())


@pytest.fixture(scope="module")
def every_option() -> set[str]:
    """Of all our programs, and torchrun's."""
    programs = [["cgc", name] for name in COMMANDS]
    scripts = [*ROOT.glob("*.py"), *(ROOT / "examples").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in scripts}
    programs += [
        ["python", path.relative_to(ROOT).as_posix()] for path in scripts if "__main__" in texts[path]
    ]
    programs += [["python", "-m", name] for name in _HARNESSES]
    found = torchrun_options() | {"--version"}
    for words in programs:
        reached = parser_of(words)
        assert reached is not None
        found |= option_names(reached.parser)
    return found


def test_every_option_in_the_text_exists(every_option: set[str]) -> None:
    for document in [*DOCUMENTS, *OTHERS]:
        spans = re.findall(r"(?<!`)`(--?[a-zA-Z][^`]*)`(?!`)", prose(document))
        unknown = {name for span in spans for name in _names(span.split())} - every_option
        assert not unknown, f"{name_of(document)}: {sorted(unknown)}"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("python -m cgc evaluate C D --metrics ch,nonsense", "unknown metric"),
        ("python -m cgc evaluate C D --no-such-option", "unrecognized"),
        ("python -m cgc trian D", "no such command"),
        ("python train_eval_cgc.py D --method nonsense", "invalid choice"),
        ("python train_eval_none.py D", "no such script"),
        ("torchrun --nproc_per_node=gpu train_eval_cgc.py D --epochs 0", "not at least 1"),
        ("torchrun --nonsense 3 train_eval_cgc.py D", "unrecognized|required"),
        ("for m in cgc nonsense; do\n  cgc train D --method $m\ndone", "invalid choice"),
        ("make nonsense", "no such target"),
        ("make demo && ffmpeg -i x", "unknown program"),
        ("pip install -r requirements-none.txt", "requirements-none"),
        ("pip install '.[nonsense]'", "nonsense"),
        ("python -c 'for'", "invalid syntax"),
    ],
)
def test_what_is_wrong_is_found(
    line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [complaint(words, capsys) for words in typed(line, tmp_path)]
    assert re.search(says, " ".join(said))


def test_commands_are_told_from_what_they_print(tmp_path: Path) -> None:
    document = tmp_path / "d.md"
    document.write_text(
        "text `make x`\n\n    python a.py \\\n        --b 'c d'\n    make e  # f\n\nprints\n\n    cgc-0: 3 of (4)\n\n"
        "```console\n$ cgc train D\nepoch 1\n```\n\n- item\n\n  ```bash\n  make g\n  ```\n\n```python\nmake = 1\n```\n"
    )
    found = [
        words for block in blocks(document) if block.commands for words in typed(block.commands, tmp_path)
    ]
    assert found == [
        ["python", "a.py", "--b", "c d"],
        ["make", "e"],
        ["cgc", "train", "D"],
        ["make", "g"],
    ]
    assert "make x" in prose(document)
    assert "make g" not in prose(document)
