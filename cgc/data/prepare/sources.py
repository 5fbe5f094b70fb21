"""Where archives come from: the user's disk, or a download by torchvision, held against torchvision's checksums."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgc.data.prepare.extraction import Progress
from cgc.errors import InputError, RunError

DOWNLOADS = ".archives"  # below the prepared folder; readers pass over names with a dot


@dataclass(frozen=True)
class ArchiveFile:
    """A file of a dataset, by the name that it is distributed under.

    ``optional``: what is made without it is usable. ``what``: it holds, in a few words.
    """

    name: str
    what: str
    optional: bool = False


@dataclass(frozen=True)
class Origin:
    """What torchvision knows of a file: its address where torchvision fetches it, its MD5 where it checks one."""

    url: str | None
    md5: str | None


def origins(torchvision_class: str | None) -> dict[str, Origin]:
    """By file name, what the installed torchvision knows; nothing where it knows the dataset no more.

    >>> origins("Imagenette")["imagenette2-160.tgz"].url is not None, origins(None)
    (True, {})
    """
    if torchvision_class is None:
        return {}
    from torchvision import datasets

    found: dict[str, Origin] = {}
    if torchvision_class == "ImageNet":
        meta = getattr(datasets.imagenet, "ARCHIVE_META", {})
        return {name: Origin(None, md5) for name, md5 in meta.values()}
    known: Any = getattr(datasets, torchvision_class, None)
    if url := getattr(known, "_URL", None):  # FGVC-Aircraft
        found[_base(url)] = Origin(url, getattr(known, "_MD5", None))
    for url, md5 in (
        *getattr(known, "_RESOURCES", ()),
        *getattr(known, "_ARCHIVES", {}).values(),
    ):  # Pet, Imagenette
        found[_base(url)] = Origin(url, md5)
    prefix = getattr(known, "_download_url_prefix", None)  # Flowers
    for name, md5 in getattr(known, "_file_dict", {}).values():
        found[name] = Origin(None if prefix is None else f"{prefix}{name}", md5)
    return found


def locate(files: Sequence[ArchiveFile], given: Sequence[Path]) -> dict[str, Path]:
    """The given paths by the names of ``files``; folders are searched for these names (not below them).

    Raises InputError for a path that is not there, that has another name, or a name twice.
    """
    names = [file.name for file in files]
    found: dict[str, Path] = {}
    for path in given:
        if path.is_dir():
            inside = [path / name for name in names if (path / name).is_file()]
            if not inside:
                raise InputError(f"{path}: none of these files in it: {', '.join(names)}")
        elif not path.exists():
            raise InputError(f"{path}: no such file")
        elif path.name not in names:
            raise InputError(f"{path}: expected a file called {' or '.join(names)}, as it is distributed")
        else:
            inside = [path]
        for one in inside:
            if one.name in found and not found[one.name].samefile(one):
                raise InputError(f"{one}: given twice, also as {found[one.name]}")
            found[one.name] = one
    return found


def verify(path: Path, md5: str, progress: Progress) -> None:
    """Raises InputError where the file's MD5 is another one."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with (
            path.open("rb") as file,
            progress(
                total=path.stat().st_size, unit="B", unit_scale=True, desc=f"checking {path.name}"
            ) as bar,
        ):
            while piece := file.read(1 << 20):
                digest.update(piece)
                bar.update(len(piece))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if digest.hexdigest() != md5:
        raise InputError(
            f"{path}: its MD5 is {digest.hexdigest()}, torchvision expects {md5}: cut off, damaged or another file "
            "(--no-checksum takes it as it is)"
        )


def download(name: str, origin: Origin, folder: Path) -> Path:
    """Fetch a file by torchvision; one that is there complete is kept, half a file is fetched again.

    Raises RunError: the download failed.
    """
    from torchvision.datasets.utils import download_url

    path, unfinished = folder / name, f".{name}.partial"
    try:
        if path.is_file():  # renamed only when it was whole
            return path
        if origin.md5 is None:
            (folder / unfinished).unlink(missing_ok=True)  # torchvision would take any file for the whole one
        download_url(origin.url, str(folder), filename=unfinished, md5=origin.md5)
        (folder / unfinished).replace(path)
    except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"the download of {name} from {origin.url} failed: {reason[:150]}") from error
    return path


def _base(url: str) -> str:
    return url.rpartition("/")[2]
