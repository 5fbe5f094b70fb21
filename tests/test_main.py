"""`python -m cgc NAME`."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import cgc
from cgc.__main__ import COMMANDS, main


def test_every_command_is_listed_and_has_a_parser(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name, (module, what) in COMMANDS.items():
        assert name in listed
        assert what in listed
        assert callable(importlib.import_module(module).main)
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert "usage:" in capsys.readouterr().out


def test_an_unknown_command_names_its_neighbour(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_nothing_at_all_is_answered_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "demo" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == cgc.__version__


def test_the_module_runs_as_a_process() -> None:
    process = subprocess.run([sys.executable, "-m", "cgc", "nonsense"], capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith("error: unknown command 'nonsense'")
