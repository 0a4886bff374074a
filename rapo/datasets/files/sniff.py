"""Sniffing: tells what a file is by its first bytes, never by its name."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import IO, Literal

from rapo.errors import DataError
from rapo.util.brief import brief_error

Kind = Literal["text", "json", "parquet", "arrow", "xlsx", "matlab"]

ByteStream = IO[bytes] | gzip.GzipFile

_HEAD = 1 << 16
#: The byte order marks of UTF-16.
UTF16 = (b"\xff\xfe", b"\xfe\xff")

#: First bytes of files that hold no labels, and what to do about them.
_REFUSED: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs.github.com", "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"),
    (b"\x80\x04\x95", "a Python pickle, which may run code when it is read; save the table as CSV or Parquet"),
    (b"\x80\x05\x95", "a Python pickle, which may run code when it is read; save the table as CSV or Parquet"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file (.xls), or one with a password; save it without one, as .xlsx or CSV"),
    (b"\x89HDF", "an HDF5 file (MATLAB 7.3 writes them too); save the table as CSV or Parquet"),
    (b"%PDF", "a PDF; save the table in it as CSV"),
    (b"\xff\xd8\xff", "an image; give the file with the scores"),
    (b"\x89PNG", "an image; give the file with the scores"),
    (b"BZh", "compressed by bzip2; unpack it"),
    (b"\xfd7zXZ", "compressed by xz; unpack it"),
    (b"(\xb5/\xfd", "compressed by zstd; unpack it"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
)


def sniff(path: Path) -> Kind:
    """The kind of a label file. Raises `DataError` where it cannot be one, and says what it is."""
    try:
        with open_bytes(path) as file:
            head = file.read(_HEAD)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {brief_error(error)}") from error
    for magic, words in _REFUSED:
        if head.startswith(magic):
            raise DataError(f"{path} is {words}")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    if head.startswith(b"MATLAB 5.0"):
        return "matlab"
    if head.startswith(b"PK\x03\x04"):
        if b"xl/" in head or b"[Content_Types].xml" in head:
            return "xlsx"
        if b"opendocument" in head or b"Index/" in head:
            raise DataError(f"{path} is a table of LibreOffice or Numbers; save it as .xlsx or CSV")
        raise DataError(f"{path} is a ZIP archive; unpack it and give the label file in it")
    if head[257:262] == b"ustar":
        raise DataError(f"{path} is a TAR archive; unpack it and give the label file in it")
    if head.startswith(b"\x1f\x8b"):
        raise DataError(f"{path} is compressed twice; unpack it once")
    if head.startswith(UTF16):
        return "text"
    if b"\0" in head:
        if sum(any(half) for half in (head[:20:2], head[1:20:2])) == 1:
            raise DataError(f"{path} is UTF-16 without a byte order mark; save it as 'CSV UTF-8'")
        raise DataError(f"{path} is a binary file of no known kind; save the table as CSV or Parquet")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"<"):
        raise DataError(
            f"{path} is a web page or XML, not a label file: fetch it again where a download went wrong, or save it as CSV"
        )
    return "json" if start[:1] in (b"[", b"{") else "text"


def open_bytes(path: Path) -> ByteStream:
    """The file's bytes, unpacked where they are gzip's."""
    file = path.open("rb")
    if file.read(2) == b"\x1f\x8b":
        file.close()
        return gzip.open(path, "rb")
    file.seek(0)
    return file


def open_text(path: Path) -> IO[str]:
    """The file's text, without a byte order mark: UTF-16 where one says so, otherwise UTF-8."""
    file = open_bytes(path)
    encoding = "utf-16" if file.read(2) in UTF16 else "utf-8-sig"
    file.seek(0)
    return io.TextIOWrapper(file, encoding=encoding)


def not_utf8(path: Path, error: UnicodeDecodeError) -> DataError:
    """The error for text in another encoding."""
    number = 1
    with open_bytes(path) as file:
        for line in file:
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                break
            number += 1
    return DataError(
        f"cannot read {path}: line {number} is not UTF-8 ({error.reason}). Save it as 'CSV UTF-8', or convert it, for "
        f"example: iconv -f GB18030 -t UTF-8 {path.name}"
    )
