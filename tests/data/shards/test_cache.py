"""Shards behind a URL: fetched, kept, checked, and given up in the end."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cgc.data.decode import UnreadableImage
from cgc.data.folders import ImageList
from cgc.data.shards.cache import CachedFiles, CacheOptions, Unavailable, as_url, file_digest
from cgc.data.shards.folders import ShardOptions, open_images, open_shards, open_stream
from cgc.data.shards.index import INDEX
from cgc.errors import InputError
from tests.data.shards.fixture import Server, plain_tar, serving
from tests.data.shards.test_images import contents

FIRST = "train-000000.tar"


@pytest.fixture
def options(tmp_path: Path) -> ShardOptions:
    return ShardOptions(cache=CacheOptions(tmp_path / "cache", timeout=0.2, tries=3, pause=0.001))


@pytest.fixture
def patient(options: ShardOptions) -> ShardOptions:
    """For what must not fail on a slow machine."""
    return replace(options, cache=replace(options.cache, timeout=30.0))


def _cached(options: ShardOptions) -> list[str]:
    return sorted(f"{path.stem.rpartition('-')[0]}.tar" for path in options.cache.folder.glob("*/*/*.tar"))


def test_the_images_are_those_of_the_folder(server: Server, images: ImageList, patient: ShardOptions) -> None:
    found = open_images(Path(server.url), "train", patient)
    assert contents(found) == contents(images)
    assert contents(open_stream(f"{server.url}/train/{INDEX}", patient)) == sorted(
        (-1, data) for _, data in contents(images)
    )
    assert server.asked[FIRST] == 1
    assert found.root.name == "train"


def test_a_shard_is_fetched_when_it_is_needed(server: Server, patient: ShardOptions) -> None:
    found = open_shards(f"{server.url}/train", patient)
    assert _cached(patient) == []
    found.read(0)
    assert _cached(patient) == [FIRST]
    found.read(1)
    assert server.asked[FIRST] == 1


def test_two_failures_are_overcome(server: Server, images: ImageList, patient: ShardOptions) -> None:
    server.faults[FIRST] = ["500", "cut"]
    assert contents(open_shards(f"{server.url}/train", patient)) == contents(images)
    assert server.asked[FIRST] == 3
    assert len(server.ranges) == 1  # only the rest of what was cut


def test_a_server_without_ranges_sends_it_all_again(
    tmp_path: Path, images: ImageList, patient: ShardOptions
) -> None:
    with serving(tmp_path / "shards", ranges=False) as server:
        server.faults[FIRST] = ["cut"]
        assert contents(open_shards(f"{server.url}/train", patient)) == contents(images)
        assert server.asked[FIRST] == 2  # and nothing of it was put behind the first half


def test_a_stall_is_cut_short_and_overcome(server: Server, options: ShardOptions) -> None:
    server.faults[FIRST] = ["stall"]
    found = open_shards(f"{server.url}/train", replace(options, cache=replace(options.cache, timeout=1.0)))
    size = found.files.shards[0].bytes
    found.read(0)
    assert server.ranges == [f"bytes={size // 2}-"]


@pytest.mark.parametrize(("fault", "said"), [("stall", r"no answer within 0\.2 s"), ("500", "500")])
def test_a_dead_shard_is_named_once_and_not_asked_for_again(
    server: Server, options: ShardOptions, fault: str, said: str
) -> None:
    server.faults[FIRST] = [fault] * 99
    found = open_shards(f"{server.url}/train", options)
    lines = set()
    for index in range(3):
        with pytest.raises(UnreadableImage, match=said) as error:
            found.read(index)
        lines.add(str(error.value))
    (line,) = lines
    assert f"{server.url}/train/{FIRST}" in line
    assert "its 3 images" in line
    asked = server.asked[FIRST]
    assert asked == 3
    with pytest.raises(UnreadableImage):  # another process
        _unforked(found).read(0)
    assert server.asked[FIRST] == asked
    server.faults.clear()
    open_shards(f"{server.url}/train", options).read(0)  # another run


def _unforked(found: ImageList) -> ImageList:
    """What a worker that was not forked would get."""
    copy = pickle.loads(pickle.dumps(found))
    assert isinstance(copy, ImageList)
    return copy


def test_a_missing_shard_is_not_asked_for_twice(
    server: Server, tmp_path: Path, patient: ShardOptions
) -> None:
    (tmp_path / "shards" / "train" / FIRST).unlink()
    found = open_shards(f"{server.url}/train", patient)
    with pytest.raises(UnreadableImage, match="404"):
        found.read(0)
    assert server.asked[FIRST] == 1
    found.read(3)


def test_other_bytes_than_the_index_lists(server: Server, tmp_path: Path, patient: ShardOptions) -> None:
    path = tmp_path / "shards" / "train" / FIRST
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnreadableImage, match="SHA-256"):
        open_shards(f"{server.url}/train", patient).read(0)
    path.write_bytes(data + b"more")
    with pytest.raises(UnreadableImage, match="bytes"):
        open_shards(f"{server.url}/train", patient).read(0)
    assert _cached(patient) == []


def test_what_was_used_longest_ago_makes_room(
    server: Server, images: ImageList, patient: ShardOptions
) -> None:
    size = open_shards(f"{server.url}/train", patient).files.shards[0].bytes
    small = replace(patient, window=1, cache=replace(patient.cache, bytes=3 * size))
    found = open_shards(f"{server.url}/train", small)
    found.read(0)
    found.read(3)
    for age, path in enumerate(sorted(small.cache.folder.glob("*/*/*.tar"), reverse=True)):
        os.utime(path, (1000 - age, 1000 - age))
    found.read(6)
    assert _cached(small) == ["train-000001.tar", "train-000002.tar"]
    found.read(0)  # the open file outlives its name
    assert server.asked[FIRST] == 1
    assert contents(open_shards(f"{server.url}/train", small)) == contents(images)
    assert len(_cached(small)) == 2
    with pytest.raises(InputError, match="a larger cache, or a smaller window"):
        open_shards(f"{server.url}/train", replace(small, window=0))


@pytest.mark.parametrize(("room", "expected"), [(9, 2), (3, 1), (2, 0)])
def test_the_next_shards_come_before_they_are_needed(
    server: Server, patient: ShardOptions, room: int, expected: int
) -> None:
    """Two, or as many as the cache has room for beside those that are open."""
    shards = open_shards(f"{server.url}/train", patient).files.shards
    size = room * max(shard.bytes for shard in shards) + 4000  # the records lie there as well
    options = replace(patient, window=1, cache=replace(patient.cache, bytes=size))
    order = open_shards(f"{server.url}/train", options).order(seed=1)
    shard_of = [order._shard_of[index].item() for index, _ in order]
    _wait_for_threads()
    for path in patient.cache.folder.rglob("*.tar"):
        path.unlink()
    server.asked.clear()
    next(iter(order))
    _wait_for_threads()
    following = list(dict.fromkeys(shard_of))[1:]
    assert _cached(options) == sorted(shards[k].name for k in following[:expected])


def test_shards_that_cannot_be_had_ahead_are_reported_by_who_needs_them(
    server: Server, patient: ShardOptions, capfd: pytest.CaptureFixture[str]
) -> None:
    found = open_shards(f"{server.url}/train", patient)
    server.faults = {shard.name: ["500"] * 9 for shard in found.files.shards[1:]}
    next(iter(found.order(shuffle=False)))
    _wait_for_threads()
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UnreadableImage, match="500"):
        found.read(4)


def test_what_failed_ahead_is_tried_again_when_it_is_needed(server: Server, patient: ShardOptions) -> None:
    """Ahead of the need once, so that a reader who waits meanwhile waits little longer than for tries of its own."""
    found = open_shards(f"{server.url}/train", patient)
    server.faults = {shard.name: ["500"] * patient.cache.tries for shard in found.files.shards}
    found.files.fetch_ahead([1])
    _wait_for_threads()
    assert server.asked["train-000001.tar"] == 1 < patient.cache.tries
    assert found.read(4)


@pytest.mark.parametrize("ahead", [False, True])
def test_what_the_server_does_not_have_is_asked_for_once(
    server: Server, options: ShardOptions, ahead: bool
) -> None:
    found = open_shards(f"{server.url}/train", options)
    server.faults["train-000001.tar"] = ["404"] * 9
    if ahead:
        found.files.fetch_ahead([1])
        _wait_for_threads()
    for index in (4, 5, 4):
        with pytest.raises(UnreadableImage, match="404"):
            found.read(index)
    assert server.asked["train-000001.tar"] == 1


def test_threads_of_a_process_fetch_one_after_the_other(
    server: Server, patient: ShardOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two lists as well: locks on files belong to the process, and would keep none of them out."""
    lists = [open_shards(f"{server.url}/train", patient) for _ in range(2)]
    at_once, most = 0, 0
    transfer = CachedFiles._transfer

    def counted(self: CachedFiles, *arguments: Any) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.02)
        transfer(self, *arguments)
        at_once -= 1

    monkeypatch.setattr(CachedFiles, "_transfer", counted)
    for each in lists:
        each.files.fetch_ahead([1, 2])
    _wait_for_threads()
    assert most == 1
    assert [server.asked[f"train-00000{n}.tar"] for n in (1, 2)] == [1, 1]


def _wait_for_threads() -> None:
    for thread in threading.enumerate():
        if thread.name == "shards ahead":
            thread.join(timeout=30)


def test_several_readers_fetch_a_shard_once(server: Server, patient: ShardOptions) -> None:
    """Processes, since locks are theirs."""
    found = open_shards(f"{server.url}/train", patient)
    context = multiprocessing.get_context("fork")
    readers = [context.Process(target=found.read, args=(0,)) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0] * 4
    assert server.asked[FIRST] == 1


def test_no_index_at_the_url(server: Server, tmp_path: Path, patient: ShardOptions) -> None:
    with pytest.raises(InputError, match=r"no val/index\.json or test/index\.json there"):
        open_images(server.url, "val", patient)
    plain_tar(tmp_path / "shards" / "plain" / "a.tar", [("a.png", b"1")])
    with pytest.raises(InputError, match=r"404.*make-shards --index"):
        open_stream(f"{server.url}/plain", patient)
    (tmp_path / "shards" / "plain" / INDEX).write_text("<html>")
    with pytest.raises(InputError, match="not JSON"):
        open_stream(f"{server.url}/plain", patient)


def test_a_hostile_index_takes_neither_disk_nor_memory(
    server: Server, tmp_path: Path, patient: ShardOptions
) -> None:
    path = tmp_path / "shards" / "train" / INDEX
    content = json.loads(path.read_text())
    del content["sha256"]
    content["records"]["bytes"] = 1 << 49
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="the cache holds"):
        open_shards(f"{server.url}/train", patient)


def test_nobody_listens(options: ShardOptions) -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/x/index\.json: .*3 tries"):
        open_shards("http://127.0.0.1:9/x", options)


def test_passwords_and_queries_stay_out_of_messages(options: ShardOptions) -> None:
    with pytest.raises(InputError) as error:
        open_shards("http://me:secret@127.0.0.1:9/x", options)
    assert "secret" not in str(error.value)
    with pytest.raises(InputError) as error:
        open_shards("http://127.0.0.1:9/x?token=secret", options)
    assert "secret" not in str(error.value)


def test_the_query_goes_with_every_request(server: Server, images: ImageList, patient: ShardOptions) -> None:
    assert contents(open_images(f"{server.url}/?token=a/b", "train", patient)) == contents(images)


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path, patient: ShardOptions) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the cache"):
        open_shards(
            f"{server.url}/train", replace(patient, cache=replace(patient.cache, folder=tmp_path / "file"))
        )


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("http://h/a/", "http://h/a"),
        (Path("https://h/a/b"), "https://h/a/b"),
        ("HTTP://h", "http://h"),
        ("ftp://h/a", None),
        ("file:///a", None),
        ("data/http", None),
    ],
)
def test_places_that_are_urls(place: str | Path, url: str | None) -> None:
    assert as_url(place) == url


def test_an_unavailable_file_says_whether_it_is_missing(
    server: Server, patient: ShardOptions, tmp_path: Path
) -> None:
    files = CachedFiles(f"{server.url}/train", patient.cache)
    with pytest.raises(Unavailable) as error:
        files.path("none.tar", 5)
    assert error.value.missing
    path = files.path(FIRST, (tmp_path / "shards" / "train" / FIRST).stat().st_size)
    assert file_digest(path) == file_digest(tmp_path / "shards" / "train" / FIRST)
