"""Fixtures of the training tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cgc.commands import training_panels
from tests.commands.runs import training_folder


@pytest.fixture(scope="session")
def training_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training images and 6 held-out ones of three classes; read only."""
    return training_folder(tmp_path_factory.mktemp("training") / "data")


@pytest.fixture
def plain_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small grey picture in place of the drawn heatmaps, whose compression takes longer than the training."""
    monkeypatch.setattr(
        training_panels, "panel_row", lambda *_, **__: np.full((8, 8, 3), 127, dtype=np.uint8)
    )
