"""Datasets that torchvision can fetch, put where the readers look for them."""

from __future__ import annotations

import http.client
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cgc.data.aircraft import aircraft_folder
from cgc.data.pets import pets_folder
from cgc.data.voc_devkit import default_split, split_list, year_folders, year_of
from cgc.errors import InputError, RunError

_FAILURES = (
    OSError,  # the network's errors among them
    RuntimeError,
    EOFError,
    http.client.HTTPException,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def download_dataset(name: str | None, root: Path, split: str | None = None) -> None:
    """Fetch a dataset into `root`, unless it is there, by torchvision's own class for it.

    Raises:
        InputError: no dataset named, one that torchvision cannot fetch, or a split that it does not have.
        RunError: the download failed.
    """
    fetch = _FETCH.get(name or "")
    if fetch is None:
        named = repr(name) if name else "a folder without a dataset's name"
        raise InputError(f"{named} cannot be downloaded; these can: {', '.join(sorted(_FETCH))}")
    try:
        fetch(root, split)
    except ValueError as error:  # torchvision's word for an unknown split
        raise InputError(f"{name} cannot be downloaded: {_line(error)}") from error
    except _FAILURES as error:
        raise RunError(f"the download of {name} into {root} failed: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _pets(root: Path, split: str | None) -> None:
    if pets_folder(root) is None:
        _torchvision().OxfordIIITPet(root, split=split or "test", target_types="segmentation", download=True)


def _aircraft(root: Path, split: str | None) -> None:
    if aircraft_folder(root) is None:
        _torchvision().FGVCAircraft(root, split=split or "test", download=True)


def _voc(year: int) -> Callable[[Path, str | None], None]:
    def fetch(root: Path, split: str | None) -> None:
        wanted = split or default_split(year)
        folders = [folder for folder in year_folders(root) if year_of(folder) == year]
        # 2007's test images come in an archive of their own, unpacked into the same folder.
        if not any(split_list(folder, wanted).is_file() for folder in folders):
            _torchvision().VOCDetection(root, year=str(year), image_set=wanted, download=True)

    return fetch


def _torchvision() -> Any:
    from torchvision import datasets

    return datasets


_FETCH: dict[str, Callable[[Path, str | None], None]] = {
    "pets": _pets,
    "fgvc": _aircraft,
    "aircraft": _aircraft,
    "voc2007": _voc(2007),
    "voc2012": _voc(2012),
}
