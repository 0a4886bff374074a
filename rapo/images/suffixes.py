"""Image suffixes: which files of a folder are images, in lower case.

- It needs neither Pillow nor NumPy, so that `rapo score` goes without.
"""

from __future__ import annotations

#: Files that are decoded. A file with another suffix is an image only where it is named itself.
IMAGE_SUFFIXES = frozenset({
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff"),
    *(".gif", ".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpx"),
})  # fmt: skip

#: Raw data of a sensor, which each camera's program develops in its own way.
RAW_SUFFIXES = frozenset({
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef"),
    *(".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
})  # fmt: skip

#: Images that nothing here decodes.
UNREAD_SUFFIXES = frozenset({".jxl", ".psd", ".svg"})
