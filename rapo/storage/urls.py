"""Storage URLs: tell addresses of object storage (`s3://bucket/key`) from paths of this machine.

- `Path` drops the second slash of a URL, so `s3:/bucket/key` counts as one, too: a URL may travel
  where a path does.
- A path that is taken for a file of this machine must be refused where it is a URL: it would name a
  folder `s3:` in the working folder. So must one that no file can have, and an empty one, which
  would be the working folder.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

#: What `rapo.storage.store` can open.
SCHEMES = ("s3", "gs", "file")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_SECRETS = re.compile(r"//[^/@]*@|\?.*", re.DOTALL)


def is_url(value: str | Path) -> bool:
    """Whether this is an address such as `s3://bucket/key`, or a `Path` made of one."""
    return _URL.fullmatch(str(value)) is not None


def whole_url(value: str | Path) -> str:
    """The URL with both slashes and none at its end. Raises `ValueError` for what is none."""
    match = _URL.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{str(value)!r} is no URL")
    scheme, rest = match.groups()
    return f"{scheme}:///{rest}".rstrip("/") if scheme == "file" else f"{scheme}://{rest}".rstrip("/")


def not_local(value: str | Path) -> str | None:
    """Why this cannot be a path of this machine; None where it can."""
    if not is_url(value):
        return _no_path(value)
    return f"{whole_url(value)} is a URL, and this takes a path of this machine; copy it here first, and give its path"


def not_stored(value: str | Path) -> str | None:
    """Why this URL cannot be opened, or cannot be a path; None where it can."""
    if not is_url(value):
        return _no_path(value)
    url = whole_url(value)
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        return f"{url}: {scheme}:// is not supported; supported are {', '.join(f'{name}://' for name in SCHEMES)}"
    if _SECRETS.search(url):
        return (
            f"{_SECRETS.sub('', url)}: credentials and options of a URL belong into the environment (docs/storage.md)"
        )
    bucket, _, key = rest.strip("/").partition("/")
    if not bucket or (scheme != "file" and not key):
        return f"{url}: give a bucket and a key, such as {scheme}://bucket/runs/one"
    return None


def _no_path(value: str | Path) -> str | None:
    """Why no file can lie at a path; None where one can, whether or not it does."""
    if not str(value):
        return "an empty path would be the working folder; give a path, or leave it out"
    try:
        os.stat(value)
    except ValueError:
        return "a path cannot hold a NUL"
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return f"{str(value)[:60]}...: a path cannot be so long"
        if error.errno == errno.ELOOP:
            return f"{value}: its symbolic links lead in a circle; correct them"
    return None
