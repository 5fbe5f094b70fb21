"""Shards made anew or only in part, servers that keep silent or lead elsewhere, and a cache that others fill."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgc.data.decode import UnreadableImage
from cgc.data.folders import ImageList, PathTable
from cgc.data.saliency_files import MadeBy
from cgc.data.shards import cache as cache_module
from cgc.data.shards import network
from cgc.data.shards.cache import CachedFiles, CacheOptions, Unavailable
from cgc.data.shards.folders import ShardOptions, open_shards
from cgc.data.shards.index import MAKING
from cgc.data.shards.names import image_names
from cgc.data.shards.network import Failed, one_line
from cgc.data.shards.tar import is_safe
from cgc.data.shards.writer import ShardWriter
from cgc.errors import InputError
from tests.data.saliency_fixture import RESIZE, SIZE, filled_by, opened
from tests.data.shards.fixture import Server, shards_of, write_shards
from tests.data.shards.test_images import contents

FIRST = "train-000000.tar"


@pytest.fixture
def options(tmp_path: Path) -> ShardOptions:
    return ShardOptions(cache=CacheOptions(tmp_path / "cache", tries=3, pause=0.001))


@pytest.mark.parametrize("labelled", [True, False])
def test_unfinished_shards_are_refused(images: ImageList, tmp_path: Path, labelled: bool) -> None:
    folder = tmp_path / "part"
    writer = ShardWriter(folder, images, "train", shards=4)
    writer.note(0, writer.make(0)[0])
    with pytest.raises(InputError, match=r"part: make-shards has not finished here.*same command"):
        open_shards(folder, ShardOptions(), labelled=labelled)
    for number in range(1, 4):
        writer.note(number, writer.make(number)[0])
    writer.finish()
    (folder / MAKING).write_text("{}")  # left behind between two renames: the index is what counts
    assert contents(open_shards(folder, ShardOptions())) == contents(images)


def test_shards_made_anew_at_the_same_url_are_fetched_anew(
    server: Server, images: ImageList, tmp_path: Path, options: ShardOptions
) -> None:
    before = open_shards(f"{server.url}/train", options)
    expected = contents(images)
    assert contents(before) == expected
    folder = tmp_path / "shards" / "train"
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.tar")}
    names = [before.paths[i] for i in range(12)]
    shutil.rmtree(folder)
    write_shards(folder, images, 4, seed=1)
    assert {path.name: path.stat().st_size for path in folder.glob("*.tar")} == sizes
    after = open_shards(f"{server.url}/train", options)
    assert [after.paths[i] for i in range(12)] != names
    assert contents(after) == expected
    assert server.asked[FIRST] == 2


@pytest.mark.parametrize("shards", [1, 3, 4])
def test_replacements_go_through_the_whole_list(tmp_path: Path, shards: int) -> None:
    found = open_shards(shards_of(tmp_path, shards=shards)[1], ShardOptions())
    for index in range(12):
        seen = [found.replacement(index, attempt) for attempt in range(40)]
        assert set(seen) == set(range(12))
        if shards == 1:
            assert seen[:12] == [(index + attempt) % 12 for attempt in range(12)]


def test_after_a_silent_server_each_shard_gets_one_short_try(
    server: Server, options: ShardOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache_module, "_SHORT", 0.1)
    quick = replace(options, cache=replace(options.cache, timeout=0.2))
    found = open_shards(f"{server.url}/train", quick)
    names = [f"train-00000{k}.tar" for k in range(4)]
    for name in names[:3]:
        server.faults[name] = ["stall"] * 99
    for first in (0, 3, 6):
        with pytest.raises(UnreadableImage, match="no answer within"):
            found.read(first)
    assert [server.asked[name] for name in names] == [3, 1, 1, 0]
    (line,) = capsys.readouterr().err.splitlines()
    assert names[1] in line
    assert "silent" in line
    monkeypatch.setattr(cache_module, "_SHORT", 30.0)
    files = found.files.cache
    assert files is not None
    files.options = replace(quick.cache, timeout=30.0)
    found.read(9)
    assert files._silent == 0  # and with it all tries are back


def test_an_error_of_the_server_is_no_silence(server: Server, options: ShardOptions) -> None:
    found = open_shards(f"{server.url}/train", options)
    for number in range(2):
        server.faults[f"train-00000{number}.tar"] = ["500"] * 99
        with pytest.raises(UnreadableImage, match="500"):
            found.read(3 * number)
    assert [server.asked[f"train-00000{k}.tar"] for k in range(2)] == [3, 3]


def test_a_redirect_to_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def answer(self: Any, request: Any) -> Any:
        handler = network._Redirects()
        return handler.redirect_request(request, _Closed(), 302, "Found", {}, "ftp://127.0.0.1:9/x")

    monkeypatch.setattr(network.urllib.request.HTTPHandler, "http_open", answer)
    files = CachedFiles("http://127.0.0.1:9/a", CacheOptions(tmp_path / "cache", tries=1))
    with pytest.raises(Unavailable, match="leads to ftp:, which is not http") as error:
        files.path("x.tar", 5)
    assert "\n" not in str(error.value)


class _Closed:
    def close(self) -> None:
        pass


def test_what_a_server_says_is_one_printable_line() -> None:
    assert one_line("No\x1b[31m\nway\r\n \u202e") == "No [31m way"
    with pytest.raises(Failed) as error, network.faults(1.0):
        raise OSError("first\nsecond\x1b")
    assert str(error.value) == "first second"


def test_what_others_fetch_meanwhile_counts(
    server: Server, options: ShardOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a shard is on its way another process fetches two; the cache still ends within its limit."""
    shards = open_shards(f"{server.url}/train", options).files.shards
    limit = 2 * shards[0].bytes + 4000  # the index is in there as well
    mine, theirs = (CachedFiles(f"{server.url}/train", replace(options.cache, bytes=limit)) for _ in range(2))
    transfer = mine._transfer

    def slow(*arguments: Any) -> None:
        transfer(*arguments)
        for shard in shards[1:3]:
            theirs.path(shard.name, shard.bytes, shard.sha256)

    monkeypatch.setattr(mine, "_transfer", slow)
    path = mine.path(shards[0].name, shards[0].bytes, shards[0].sha256)
    assert path.exists()
    assert sum(path.stat().st_size for path in options.cache.folder.rglob("*") if path.is_file()) <= limit


def test_masks_made_for_other_spellings_of_a_suffix(tmp_path: Path, images: ImageList) -> None:
    """As ImageNet's .JPEG: a shard calls it .jpg, the manifest of the masks as the folder does."""
    for path in sorted((tmp_path / "data").rglob("*.png")):
        path.rename(path.with_suffix(".JPEG"))
    listed = [str(Path(images.paths[i]).with_suffix(".JPEG")) for i in range(12)]
    table = type(images.paths)(listed)  # type: ignore[call-arg]
    renamed = replace(images, paths=table)
    found = open_shards(write_shards(tmp_path / "out" / "train", renamed, 2), ShardOptions())
    assert all(found.paths[i].endswith(".jpg") for i in range(12))
    made = MadeBy("u2netp", "0123456789abcdef", "query", SIZE, RESIZE)
    folder = filled_by(made, renamed, tmp_path / "saliency")
    for each in (renamed, found):
        masks = opened(folder, each)
        assert masks.notes == []
        assert masks.made_by == made


def test_masks_of_names_that_shards_write_otherwise(tmp_path: Path, images: ImageList) -> None:
    """Dots and percent signs in a stem, and two images of one stem, are other members' names; masks are found all the
    same."""
    names = [f"ant/{name}" for name in ("a.b.png", "a%2Eb.png", "a%.png", "c.jpg", "c.png", "d%png.jpg")]
    listed = replace(
        images, paths=PathTable(names), labels=np.zeros(len(names), dtype=np.int64), root=tmp_path / "named"
    )
    for index, name in enumerate(names):
        path = tmp_path / "named" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.read(index))
    found = open_shards(write_shards(tmp_path / "out" / "train", listed, 2), ShardOptions())
    assert sorted(found.paths[i] for i in range(len(found))) == sorted(names)
    folder = filled_by(MadeBy("u2netp", "0" * 16, "query", SIZE, RESIZE), listed, tmp_path / "saliency")
    assert opened(folder, found).notes == []


@pytest.mark.parametrize("member", ["%2E%2E/a.jpg", "a/%2E%2E", "%2E%2E"])
def test_a_name_does_not_become_one_that_leads_out(member: str) -> None:
    table = image_names(PathTable([member, "b%25.jpg"]))
    assert is_safe(table[0])
    assert table[1] == "b%.jpg"


def test_an_order_says_which_samples_it_is_of(tmp_path: Path, images: ImageList) -> None:
    """A position within an epoch means nothing in shards that were made anew, or in the image folder."""
    found = open_shards(tmp_path / "shards" / "train", ShardOptions())
    copied = shutil.copytree(tmp_path / "shards" / "train", tmp_path / "copy")
    anew = open_shards(write_shards(tmp_path / "anew", images, 4, seed=1), ShardOptions())
    said = found.order().described
    assert open_shards(copied, ShardOptions()).order().described == said
    assert len({said, anew.order().described, images.order().described}) == 3
