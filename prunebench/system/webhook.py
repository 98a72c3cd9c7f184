"""Posts JSON to a webhook. Its address is a secret: messages show its host alone."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from ..errors import PrunebenchError, inert

TIMEOUT = 10.0
#: Seconds before each new attempt, and the most that a server's Retry-After may ask for.
WAITS = (1.0, 4.0, 15.0)
MAX_WAIT = 60.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, and the message would be lost silently."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class PostError(PrunebenchError):
    """A message that could not be posted."""


def shown(url: str) -> str:
    """The part of an address that may be shown: scheme and host."""
    try:
        parts = urlsplit(url)
        return inert(f"{parts.scheme}://{parts.hostname}/...", 100)
    except ValueError:
        return "the webhook"


def check(url: str) -> None:
    """Refuse a text that is not a web address.

    Raises:
        PrunebenchError: without the address in it.
    """
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or any(not 0x20 < ord(letter) < 0x7F for letter in url):
        raise PrunebenchError("the webhook is not an address that begins with https:// or http://")


def post(url: str, data: object) -> None:
    """Post *data* as JSON, with retries after server errors and network failures.

    Raises:
        PostError: one line, with the host and why.
    """
    check(url)
    body = json.dumps(data).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "prunebench"}
    for wait in (*WAITS, None):
        request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310  # checked
        opener = urllib.request.build_opener(_NoRedirects)
        try:
            with opener.open(request, timeout=TIMEOUT):
                return
        except urllib.error.HTTPError as error:
            error.close()
            why = f"answered {error.code}"
            hopeless = error.code < 500 and error.code not in (408, 425, 429)
            after = error.headers.get("Retry-After", "") if error.headers else ""
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            # Its text may quote the address; the system's name for it does not.
            why = getattr(reason, "strerror", None) or type(reason).__name__
            hopeless, after = False, ""
        if hopeless or wait is None:
            raise PostError(f"not posted: {shown(url)} {why}")
        time.sleep(min(MAX_WAIT, float(after)) if after.isascii() and after.isdigit() else wait)
