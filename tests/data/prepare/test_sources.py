"""Finding, fetching and checking archives; nothing is fetched here."""

from __future__ import annotations

import hashlib
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from torchvision import datasets
from torchvision.datasets import utils
from tqdm import tqdm

from cgc.data.prepare import extraction, run
from cgc.data.prepare.registry import PREPARATIONS
from cgc.data.prepare.run import Wish, prepare
from cgc.data.prepare.sources import Origin, download, locate, origins, verify
from cgc.errors import InputError, RunError
from tests.data.prepare import fixture

FETCHED = ("aircraft", "flowers", "imagenette", "pets")


def test_what_torchvision_knows() -> None:
    for name in FETCHED:
        entry = PREPARATIONS[name]
        known = origins(entry.torchvision)
        for variant in entry.variants:
            for file in entry.files(variant):
                assert (known[file.name].url or "").endswith(f"/{file.name}"), file.name
                assert (known[file.name].md5 is None) == (name == "aircraft")
    checked = origins("ImageNet")
    names = {"ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"}
    assert set(checked) == names
    assert names <= {file.name for file in PREPARATIONS["imagenet"].files("")}
    assert all(origin.url is None and len(origin.md5 or "") == 32 for origin in checked.values())
    others = [
        entry.torchvision for name, entry in PREPARATIONS.items() if name not in (*FETCHED, "imagenet-val")
    ]
    assert {other for other in others if other} == {"ImageNet"}


def test_a_torchvision_that_knows_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(datasets.Imagenette, "_ARCHIVES")
    with pytest.raises(InputError, match=r"imagenette2\.tgz missing"):
        prepare(Wish("imagenette", tmp_path / "out"), tqdm, print)


def test_archives_are_found_by_their_names(tmp_path: Path) -> None:
    files = PREPARATIONS["pets"].files("")
    (tmp_path / "all").mkdir()
    for file in files:
        (tmp_path / "all" / file.name).touch()
    everything = {file.name: tmp_path / "all" / file.name for file in files}
    assert locate(files, [tmp_path / "all"]) == everything
    assert locate(files, [tmp_path / "all" / files[0].name, tmp_path / "all"]) == everything
    other = tmp_path / files[0].name
    other.touch()
    with pytest.raises(InputError, match="given twice"):
        locate(files, [tmp_path / "all", other])
    with pytest.raises(InputError, match=r"renamed\.tar: no such file"):
        locate(files, [tmp_path / "renamed.tar"])
    renamed = other.rename(tmp_path / "renamed.tar")
    with pytest.raises(InputError, match=r"expected a file called images\.tar\.gz or annotations\.tar\.gz"):
        locate(files, [renamed])
    with pytest.raises(InputError, match="none of these files in it"):
        locate(files, [tmp_path])


def test_md5(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    verify(path, hashlib.md5(b"content").hexdigest(), tqdm)
    with pytest.raises(InputError, match=r"torchvision expects 0+: cut off, damaged or another file"):
        verify(path, "0" * 32, tqdm)


def test_another_file_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    fixture.imagenette(tmp_path)
    with pytest.raises(InputError, match=r"imagenette2\.tgz: its MD5 is"):
        prepare(Wish("imagenette", tmp_path / "out", (tmp_path / "imagenette2.tgz",)), tqdm, print)
    assert not (tmp_path / "out").exists()


def test_a_checksum_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = fixture.pets(tmp_path / "archives")
    Server(archives, monkeypatch, "pets")  # torchvision's checksums are now those of the files
    checked: list[str] = []
    monkeypatch.setattr(run, "verify", lambda path, md5, progress: checked.append(path.name))

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(extraction, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(Wish("pets", tmp_path / "out", (archives,)), tqdm, print)
    assert prepare(Wish("pets", tmp_path / "out", (archives,)), tqdm, print)["val"] == 2
    assert sorted(checked) == ["annotations.tar.gz", "images.tar.gz"]


class Server:
    """A stand-in for torchvision's download: writes half the files, or whole ones."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.folder, self.asked = folder, list[str]()
        self.half = False
        monkeypatch.setattr(utils, "download_url", self.fetch)
        known = {
            file.name: Origin(
                f"https://host/{file.name}",
                None if name == "aircraft" else hashlib.md5((folder / file.name).read_bytes()).hexdigest(),
            )
            for file in PREPARATIONS[name].files(PREPARATIONS[name].variants[0])
        }
        monkeypatch.setattr(run, "origins", lambda torchvision_class: known)

    def fetch(self, url: str, root: str, filename: str, md5: str | None) -> None:
        target = Path(root) / filename
        data = (self.folder / url.rpartition("/")[2]).read_bytes()
        Path(root).mkdir(parents=True, exist_ok=True)
        if md5 is None:
            assert not target.exists()  # torchvision would keep it
        self.asked.append(url)
        target.write_bytes(data[: len(data) // 2] if self.half else data)
        if self.half and md5 is not None:
            raise RuntimeError("File not found or corrupted.")


@pytest.mark.parametrize("name", ["pets", "aircraft"])
def test_half_a_download_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "server").mkdir()
    getattr(fixture, name)(tmp_path / "server")
    server = Server(tmp_path / "server", monkeypatch, name)
    server.half = True
    wish, out = Wish(name, tmp_path / "out"), tmp_path / "out"
    error = InputError if name == "aircraft" else RunError  # without an MD5 it shows when it is unpacked
    with pytest.raises(error, match=r"cut off or damaged|the download of images\.tar\.gz from https://host/"):
        prepare(wish, tqdm, print)
    server.half = False
    prepare(wish, tqdm, print)
    first = PREPARATIONS[name].files("test")[0].name
    assert server.asked.count(f"https://host/{first}") == 2
    assert not (out / ".archives").exists()
    asked = len(server.asked)
    prepare(wish, tqdm, print)
    assert len(server.asked) == asked


def test_downloads_can_be_kept_and_are_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixture.pets(tmp_path / "server")
    server = Server(tmp_path / "server", monkeypatch, "pets")
    prepare(Wish("pets", tmp_path / "out", keep_archives=True), tqdm, print)
    assert sorted(path.name for path in (tmp_path / "out" / ".archives").iterdir()) == [
        "annotations.tar.gz",
        "images.tar.gz",
    ]
    origin = Origin("https://host/images.tar.gz", None)
    assert download("images.tar.gz", origin, tmp_path / "out" / ".archives").is_file()
    assert len(server.asked) == 2


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise urllib.error.URLError("no route\nto host")

    monkeypatch.setattr(utils, "download_url", fail)
    with pytest.raises(
        RunError, match=r"the download of imagenette2\.tgz from https://.* failed: .*no route to host"
    ):
        prepare(Wish("imagenette", tmp_path / "out"), tqdm, print)
    with pytest.raises(InputError, match="without --no-download, torchvision fetches what it can"):
        prepare(Wish("imagenette", tmp_path / "out2", fetch=False), tqdm, print)
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("imagenet", (), r"give ILSVRC2012_img_train\.tar, ILSVRC2012_img_val\.tar or both"),
        ("imagenet", ("ILSVRC2012_img_val.tar",), r"the classes of ILSVRC2012_img_val\.tar stand in"),
        ("imagenet-val", ("ILSVRC2012_img_val.tar",), r"ILSVRC2012_bbox_val_v3\.tgz missing"),
        ("cub", (), r"cub: CUB_200_2011\.tgz missing; get what you need from the dataset's own page"),
        ("dogs", (), r"images\.tar and lists\.tar missing"),
        ("coco", (), r"val2014\.zip and annotations_trainval2014\.zip missing"),
        ("cubs", (), "unknown dataset 'cubs'; did you mean cub"),
        ("nothing like it", (), "there are: imagenet, "),
    ],
)
def test_what_is_missing(tmp_path: Path, name: str, given: tuple[str, ...], said: str) -> None:
    for file in given:
        (tmp_path / file).touch()
    with pytest.raises(InputError, match=said):
        prepare(Wish(name, tmp_path / "out", tuple(tmp_path / file for file in given)), tqdm, print)
    assert not (tmp_path / "out").exists()


def test_variants_that_are_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--variant 2015: coco has the variants 2014, 2017"):
        prepare(Wish("coco", tmp_path / "out", variant="2015"), tqdm, print)
    with pytest.raises(InputError, match="--variant x: cub has no variants"):
        prepare(Wish("cub", tmp_path / "out", variant="x"), tqdm, print)
