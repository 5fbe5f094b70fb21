"""torch and torchvision that do not fit each other."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest

from cgc.commands.pairing import require_torchvision


def break_import(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real = builtins.__import__

    def broken(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.split(".")[0] == "torchvision":
            raise error
        return real(name, *arguments, **keywords)

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(builtins, "__import__", broken)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operator torchvision::nms does not exist"),
        OSError("/x/torchvision/_C.so: undefined symbol: _ZN3c10"),
    ],
)
def test_a_pair_that_does_not_fit_ends_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    break_import(monkeypatch, error)
    with pytest.raises(SystemExit) as stop:
        require_torchvision()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(error) in line
    assert "pip install torch torchvision" in line


@pytest.mark.parametrize("error", [RuntimeError("something else"), OSError("disk on fire")])
def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    break_import(monkeypatch, error)
    with pytest.raises(type(error), match=str(error)):
        require_torchvision()


def test_a_pair_that_fits_passes() -> None:
    require_torchvision()
    assert "torchvision" in sys.modules
