"""The documents as the tests read them: code blocks, commands, links and headings of README.md and docs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

PROGRAMS = ("python", "python3", "cgc", "torchrun", "make", "pip", "bash", "sbatch", "taskset")
_SHELL = ("bash", "sh", "shell")
_STARTS = re.compile(rf"(\w+=\S+ )*({'|'.join(PROGRAMS)}|for|cd|export)(?=\s)")
# Programs become functions that write down their arguments; nothing is found in PATH, so nothing else runs.
_RECORDER = "\n".join(
    [
        "PATH=/nowhere",
        """record() { printf '%s\\036' "$@" >&3; printf '\\035' >&3; }""",
        *(f'{name}() {{ record {name} "$@"; }}' for name in PROGRAMS),
        "cd() { :; }",
        'command_not_found_handle() { record "unknown program" "$@"; }',
        "",
    ]
)


@dataclass(frozen=True)
class Block:
    """A code block: its language ('' where none is named), its text, and the line it starts at."""

    language: str
    text: str
    line: int

    @property
    def commands(self) -> str:
        """What a reader would type, '' for a block of anything else."""
        if self.language == "console":
            return "\n".join(line[2:] for line in self.text.splitlines() if line.startswith(("$ ", "> ")))
        if self.language in _SHELL or (not self.language and _STARTS.match(self.text)):
            return self.text
        return ""


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def blocks(document: Path) -> Iterator[Block]:
    """Fenced blocks, and those indented by four spaces or more below an empty line."""
    lines = [*document.read_text(encoding="utf-8").splitlines(), ""]
    i = 0
    while i < len(lines):
        fence = re.fullmatch(r"( *)(`{3,})(\w*).*", lines[i])
        if fence:
            end = next(k for k in range(i + 1, len(lines)) if lines[k].strip() == fence[2])
            yield Block(fence[3], "\n".join(line[len(fence[1]) :] for line in lines[i + 1 : end]), i + 2)
            i = end + 1
        elif lines[i].startswith("    ") and not lines[i - 1].strip():
            end = i
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            inner = lines[i:end]
            margin = min(len(line) - len(line.lstrip()) for line in inner if line.strip())
            yield Block("", "\n".join(line[margin:] for line in inner).rstrip(), i + 1)
            i = end
        else:
            i += 1


def prose(document: Path) -> str:
    """The text without its code blocks, every line where it was."""
    lines = document.read_text(encoding="utf-8").splitlines()
    for block in blocks(document):
        first = block.line - 1
        for k in range(first, first + len(block.text.splitlines())):
            lines[k] = ""
    return "\n".join(lines)


def typed(script: str, folder: Path) -> list[list[str]]:
    """The programs that a shell script starts, with their arguments as bash hands them over: loops, quotes and
    variables are its affair. Nothing is run; redirections happen in ``folder``.
    """
    log = folder / "typed"
    done = subprocess.run(
        ["/bin/bash", "-c", f"exec 3>{log}\n{_RECORDER}{script}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, f"bash: {done.stderr}\n{script}"
    assert not done.stderr, f"bash: {done.stderr}\n{script}"
    calls = log.read_text(encoding="utf-8").split("\x1d")[:-1]
    return [_without_prefix(call.split("\x1e")[:-1]) for call in calls]


def _without_prefix(words: list[str]) -> list[str]:
    """`taskset -c 0 python …` starts python."""
    return words[3:] if words[:2] == ["taskset", "-c"] else words


def documented(document: Path, folder: Path) -> list[list[str]]:
    """Every command of a document's code blocks, in its order."""
    return [words for block in blocks(document) if block.commands for words in typed(block.commands, folder)]


def headings(document: Path) -> list[tuple[int, str]]:
    """Line and text of every heading, without the marks of code and emphasis."""
    found = []
    for number, line in enumerate(prose(document).splitlines(), start=1):
        if heading := re.fullmatch(r"#{1,6} +(.*?)[ #]*", line):
            found.append((number, re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])))
    return found


def sections(document: Path) -> Iterator[tuple[int, int]]:
    """First and last line of what stands below each heading, up to the next."""
    starts = [number for number, _ in headings(document)]
    end = len(document.read_text(encoding="utf-8").splitlines())
    yield from zip(starts, [*(start - 1 for start in starts[1:]), end], strict=True)
