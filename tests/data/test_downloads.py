"""Downloads through torchvision's classes, with stand-ins for them: nothing is fetched here."""

from __future__ import annotations

import tarfile
import urllib.error

import pytest
from torchvision import datasets

from cgc.data.boxes import open_boxes
from cgc.errors import InputError, RunError
from tests.data.test_region_layouts import aircraft, pets, voc_year


@pytest.fixture
def fetched(monkeypatch):
    """Stand-ins that write the small fixtures; what they were asked for."""
    calls = []
    writers = {
        "OxfordIIITPet": lambda root, options: pets(root),
        "FGVCAircraft": lambda root, options: aircraft(root),
        "VOCDetection": lambda root, options: voc_year(
            root / "VOCdevkit" / f"VOC{options['year']}", options["image_set"]
        ),
    }
    for name, write in writers.items():

        def fetch(root, name=name, write=write, **options):
            calls.append((name, options))
            write(root, options)

        monkeypatch.setattr(datasets, name, fetch)
    return calls


def test_voc_is_fetched_once_for_each_split(tmp_path, fetched):
    for _ in range(2):
        assert len(open_boxes(tmp_path / "new", dataset="voc2007", download=True).images) == 3
    assert open_boxes(tmp_path / "new", dataset="voc2012", download=True).layout == "VOC2012 val"
    open_boxes(tmp_path / "new", dataset="voc2007", split="trainval", download=True)
    assert fetched == [
        ("VOCDetection", {"year": "2007", "image_set": "test", "download": True}),
        ("VOCDetection", {"year": "2012", "image_set": "val", "download": True}),
        ("VOCDetection", {"year": "2007", "image_set": "trainval", "download": True}),
    ]


def test_pets_and_aircraft_are_fetched_where_they_are_missing(tmp_path, fetched):
    for name, expected in (("pets", 37), ("fgvc", 100), ("aircraft", 100)):
        with pytest.raises(InputError, match=f"4 classes, but {name} has {expected}"):
            open_boxes(tmp_path, dataset=name, download=True)
    assert fetched == [
        ("OxfordIIITPet", {"split": "test", "target_types": "segmentation", "download": True}),
        ("FGVCAircraft", {"split": "test", "download": True}),
    ]


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("no route\nto host"),
        RuntimeError("File not found or corrupted."),
        tarfile.ReadError("unexpected end of data"),
        EOFError(),
    ],
)
def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(datasets, "OxfordIIITPet", fail)
    with pytest.raises(RunError, match=r"^the download of pets into .* failed: .+$") as caught:
        open_boxes(tmp_path, dataset="pets", download=True)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_downloaded(tmp_path, monkeypatch):
    can = "these can: aircraft, fgvc, pets, voc2007, voc2012"
    with pytest.raises(InputError, match=f"'coco2014' cannot be downloaded; {can}"):
        open_boxes(tmp_path, dataset="coco2014", download=True)
    with pytest.raises(InputError, match="a folder without a dataset's name cannot be downloaded"):
        open_boxes(tmp_path, download=True)

    def refuse(*arguments, **options):
        raise ValueError("Unknown value 'test' for argument image_set.")

    monkeypatch.setattr(datasets, "VOCDetection", refuse)
    with pytest.raises(InputError, match="voc2012 cannot be downloaded: Unknown value 'test'"):
        open_boxes(tmp_path, dataset="voc2012", split="test", download=True)
