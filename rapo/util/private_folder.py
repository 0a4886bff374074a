"""PrivateFolder: a folder of this user, in the system's temporary folder or another one, that other
users cannot enter.

Ray makes its folders writable for everybody, and names in the temporary folder can be guessed. What
lies in here is out of reach all the same.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def private_folder(inside: Path | None = None) -> Path:
    """The folder `rapo-UID` inside the temporary folder, or inside `inside`. It is made if need be.
    If something else is in its place, a new folder of another name is made."""
    path = (inside or Path(tempfile.gettempdir())) / f"rapo-{os.getuid()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077:
        return path
    return Path(tempfile.mkdtemp(prefix=f"{path.name}-", dir=path.parent))
