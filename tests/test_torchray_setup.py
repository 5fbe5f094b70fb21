"""The published `cd TorchRay; python setup.py install` must not put a `torchray` in the way of the real one."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

setuptools = pytest.importorskip("setuptools")
FOLDER = Path(__file__).parents[1] / "TorchRay"


def test_it_names_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(setuptools, "setup", lambda **options: asked.append(options))
    runpy.run_path(str(FOLDER / "setup.py"))
    [options] = asked
    assert options["name"] == "cgc-torchray-paths"
    assert options["packages"] == options["py_modules"] == []


def test_no_folder_is_a_package() -> None:
    assert not list(FOLDER.rglob("__init__.py"))


def test_what_is_built_is_empty(tmp_path: Path) -> None:
    """Nothing is found by setuptools on its own either: the folders beside setup.py look like packages to it."""
    build = [sys.executable, str(FOLDER / "setup.py"), "-q", "egg_info", "--egg-base", str(tmp_path), "build"]
    subprocess.run([*build, "--build-base", str(tmp_path / "build")], cwd=FOLDER, check=True, timeout=60,
                   capture_output=True)  # fmt: skip
    assert (tmp_path / "cgc_torchray_paths.egg-info" / "top_level.txt").read_text().split() == []
    assert not list((tmp_path / "build").rglob("*.py"))
