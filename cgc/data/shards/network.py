"""Requests to an HTTP server, and what goes wrong with them as one line."""

from __future__ import annotations

import contextlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, cast


class Failed(Exception):
    """An attempt that may go better the next time: one line."""


class Stalled(Failed):
    """Nothing came for as long as we wait."""


def opened(request: urllib.request.Request, timeout: float) -> http.client.HTTPResponse:
    """The server's answer. Raises Failed, or HTTPError for an answer that says no."""
    with faults(timeout):
        answer = urllib.request.build_opener(_Redirects).open(request, timeout=timeout)
    return cast("http.client.HTTPResponse", answer)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        kind = newurl.partition(":")[0].lower()
        if kind not in ("http", "https"):
            fp.close()
            raise Failed(f"the server leads to {one_line(kind)!s:.20}:, which is not http")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def one_line(text: object) -> str:
    """What a server said, fit for a terminal."""
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    return " ".join(printable.split())[:200]


@contextlib.contextmanager
def faults(timeout: float) -> Iterator[None]:
    """What goes wrong on the way becomes Failed; an answer of the server that says no stays HTTPError."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            raise Stalled(f"no answer within {timeout:g} s") from error
        text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise Failed(one_line(text)) from error
