"""Shards that will be needed soon, fetched while others are read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from cgc.data.shards.cache import Unavailable
from cgc.errors import InputError

AHEAD = 2  # shards


class Ahead:
    """Calls ``fetch`` for one shard after the other, in a thread that lives as long as there is something to fetch.

    That a shard cannot be had is dropped: who needs the shard will meet that again, and can say so.
    """

    def __init__(self, fetch: Callable[[int], object]) -> None:
        self._fetch = fetch
        self._wanted: list[int] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def want(self, shards: Sequence[int]) -> None:
        """These are wanted now, in this order, and no others any more."""
        with self._lock:
            self._wanted = list(shards)
            if self._wanted and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, name="shards ahead", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                shard = self._wanted.pop(0)
            try:
                self._fetch(shard)
            except (Unavailable, InputError):
                continue
