"""Small shards, and a server of them that misbehaves on request."""

from __future__ import annotations

import io
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cgc.data.folders import ImageList, open_split
from cgc.data.shards.writer import ShardWriter
from tests.data.images import image_folder


def write_shards(folder: Path, images: ImageList, shards: int, prefix: str = "train", seed: int = 0) -> Path:
    """All of an image list, as the command writes it."""
    writer = ShardWriter(folder, images, prefix, shards=shards, seed=seed)
    for number in range(len(writer)):
        writer.note(number, writer.make(number)[0])
    writer.finish()
    return folder


def shards_of(root: Path, images_per_class: int = 6, shards: int = 4) -> tuple[ImageList, Path]:
    """An image folder's training images, and shards of them in `<root>/shards/train`."""
    images = open_split(image_folder(root / "data", images_per_class, ("train",)), "train")
    return images, write_shards(root / "shards" / "train", images, shards)


def plain_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


class Server(ThreadingHTTPServer):
    """Serves a folder. ``faults`` maps a file's name to what goes wrong with its next requests.

    "500", "404": that answer; "stall": half of the file, and then nothing until the server is closed; "cut":
    half of the file, and the connection ends. ``asked`` counts requests, ``ranges`` lists the ranges asked for.
    """

    daemon_threads = True

    def __init__(self, folder: Path, *, ranges: bool = True) -> None:
        self.faults: dict[str, list[str]] = {}
        self.asked: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.honours_ranges = ranges
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is expected."""


class _Handler(SimpleHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        server = self.server
        server.asked[path.name] += 1
        if not path.is_file():
            self.send_error(404)
            return
        faults = server.faults.get(path.name, [])
        fault = faults.pop(0) if faults else ""
        if fault.isdigit():
            self.send_error(int(fault))
            return
        data, wanted = path.read_bytes(), self.headers.get("Range", "")
        first = 0
        if wanted:
            server.ranges.append(wanted)
            first = int(wanted[6:-1]) if server.honours_ranges else 0
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        part = data[first:]
        if fault:
            part = part[: len(part) // 2]
        self.wfile.write(part)
        self.wfile.flush()
        if fault == "stall":
            server.closing.wait(30)
        self.close_connection = True


@contextmanager
def serving(folder: Path, *, ranges: bool = True) -> Iterator[Server]:
    server = Server(folder, ranges=ranges)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
