"""Where the members of a zip archive lie, from its directory alone; nothing is ever inflated."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from .atomic import open_ordinary

#: Directory of an archive: 50 to 150 bytes for each member, one of which is a tensor.
_MAX_DIRECTORY_BYTES = 16 * 2**20
_END, _END_64, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_LOCAL = struct.Struct("<4s22xHH")
_MAX_SMALL = 4096


@dataclass(frozen=True)
class Member:
    """A member of an archive.

    Attributes:
        begin: Where its bytes begin in the file.
        size: How many they are in the file.
        checksum: Their CRC-32; 0 where the writer left it out.
        plain: They are stored as they are: neither compressed nor encrypted.
    """

    begin: int
    size: int
    checksum: int
    plain: bool


def open_zip(path: Path) -> dict[str, Member]:
    """The members of an archive by name.

    Raises:
        ValueError: It is damaged, or too large.
        OSError: It cannot be read.
    """
    with open_ordinary(path) as file:
        size = file.seek(0, 2)
        if _directory_bytes(file, size) > _MAX_DIRECTORY_BYTES:
            raise ValueError(f"its directory takes more than {_MAX_DIRECTORY_BYTES >> 20} MiB")
        try:
            with zipfile.ZipFile(file) as archive:
                return {info.filename: _member(file, info, size) for info in archive.infolist()}
        # zipfile raises the last where an entry asks for a later version of the format than it has.
        except (zipfile.BadZipFile, struct.error, NotImplementedError) as error:
            raise ValueError(f"its zip archive is damaged ({error})") from error


def read_small(path: Path, member: Member) -> bytes:
    """The beginning of a member, which holds a word."""
    with open_ordinary(path) as file:
        file.seek(member.begin)
        return file.read(min(member.size, _MAX_SMALL)).strip()


def _directory_bytes(file: BufferedReader, size: int) -> int:
    """The bytes of the directory, as the archive's last record says: looked at before it is read.

    Raises:
        ValueError: There is no such record: the file is cut off.
    """
    file.seek(max(0, size - 2**16 - 64))
    tail = file.read()
    place = len(tail) - 22 if tail[-22:-18] == _END else tail.rfind(_END)
    if place < 0 or len(tail) - place < 22:
        raise ValueError("it ends too early: its zip archive has no directory")
    stated: int = struct.unpack_from("<L", tail, place + 12)[0]
    locator = tail[max(0, place - 20) : place]
    if locator[:4] == _LOCATOR_64:
        file.seek(min(struct.unpack_from("<Q", locator, 8)[0], size))
        record = file.read(56)
        if record[:4] == _END_64 and len(record) == 56:
            stated = max(
                stated if stated != 2**32 - 1 else 0, struct.unpack_from("<Q", record, 40)[0]
            )
    return stated


def _member(file: BufferedReader, info: zipfile.ZipInfo, size: int) -> Member:
    plain = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    file.seek(info.header_offset)
    head = file.read(_LOCAL.size)
    magic, name, extra = _LOCAL.unpack(head)
    begin = info.header_offset + _LOCAL.size + name + extra
    if magic != b"PK\x03\x04" or begin + info.compress_size > size:
        raise ValueError("it ends too early, or its zip archive is damaged")
    return Member(begin, info.compress_size, info.CRC, plain and not info.flag_bits & 1)
