"""StorageUrl: tells addresses of object storage (`s3://bucket/key`) from paths of this machine.

- `Path` drops the second slash of a URL, so `s3:/bucket/key` counts as one, too.
- A path that is taken for a file of this machine must be refused where it is a URL: it would name a
  folder `s3:` in the working folder.
"""

from __future__ import annotations

import re
from pathlib import Path

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)


def is_url(value: str | Path) -> bool:
    """Whether this is an address such as `s3://bucket/key`, or a `Path` made of one."""
    return _URL.fullmatch(str(value)) is not None


def whole_url(value: str | Path) -> str:
    """The URL with both slashes. Raises `ValueError` for what is none."""
    match = _URL.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{str(value)!r} is no URL")
    scheme, rest = match.groups()
    return f"file:///{rest}" if scheme == "file" else f"{scheme}://{rest}"


def not_local(value: str | Path) -> str | None:
    """Why this cannot be a path of this machine; None where it can."""
    if not is_url(value):
        return None
    return f"{whole_url(value)} is a URL, and this takes a path of this machine; copy it here first, and give its path"
