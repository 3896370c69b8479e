"""What a file is, by its first bytes: a name is only what somebody called it."""

from __future__ import annotations

import enum
from pathlib import Path

from ..errors import StorageError
from .atomic import open_ordinary

#: How much of a file is looked at; the magic of a tar archive is the last, at 257.
_LOOKED_AT = 512


class Kind(enum.Enum):
    """A kind of file that weights are read from."""

    SAFETENSORS = enum.auto()
    TORCH_ZIP = enum.auto()
    TORCH_LEGACY = enum.auto()


#: What torch wrote before version 1.6 begins with: a pickle of this number, then others.
_LEGACY = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
#: What stands before its length in pickles of protocol 4 and above.
_FRAME = b"\x95"
_ZIP = b"PK\x03\x04"
_OTHER = "What can be read: what torch.save wrote, and safetensors."
#: How other files begin -> what they are, and what to do.
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs",
        "is the pointer of Git LFS, not the weights: it says where they are. Fetch them with "
        "'git lfs pull' in the repository, or download the file itself.",
    ),
    (
        b"\x89HDF\r\n\x1a\n",
        "is an HDF5 file, such as Keras writes: weights of another framework, which have other "
        f"layers. {_OTHER}",
    ),
    (b"\x1f\x8b", "is compressed by gzip. Unpack it with gunzip (tar xzf, if it is a .tar.gz)."),
    (b"BZh", "is compressed by bzip2. Unpack it with bunzip2."),
    (b"\xfd7zXZ\x00", "is compressed by xz. Unpack it with unxz."),
    (b"\x28\xb5\x2f\xfd", "is compressed by Zstandard. Unpack it with unzstd."),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive. Unpack it and give the file inside."),
    (b"Rar!\x1a\x07", "is a RAR archive. Unpack it and give the file inside."),
    (
        b"PK\x05\x06",
        f"is an empty zip archive. {_OTHER}",
    ),
    (b"\x93NUMPY", f"is an array of NumPy. {_OTHER}"),
    (b"GGUF", f"is a GGUF file of quantised weights. {_OTHER}"),
    (b"\x89PNG", "is a picture (PNG), no weights."),
    (b"\xff\xd8\xff", "is a picture (JPEG), no weights."),
    (b"%PDF", "is a PDF, no weights."),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<svg")


def kind_of(path: Path) -> Kind:
    """What a file of weights is, whatever its name says.

    Raises:
        StorageError: There is no such file, or it is none that weights are read from; the message
            says what it is.
    """
    try:
        with open_ordinary(path) as file:
            head = file.read(_LOOKED_AT)
            size = file.seek(0, 2)
    except FileNotFoundError as error:
        raise StorageError(f"There is no file {str(path)!r}.") from error
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
    if _is_safetensors(head, size):
        return Kind.SAFETENSORS
    if head.startswith(_ZIP):
        return Kind.TORCH_ZIP
    if head[:1] == b"\x80" and head.startswith(_LEGACY, 11 if head[2:3] == _FRAME else 2):
        return Kind.TORCH_LEGACY
    raise StorageError(f"{path} {_foreign(head, size)}")


def _is_safetensors(head: bytes, size: int) -> bool:
    """Eight bytes that are the length of a header of JSON, and its beginning."""
    length = int.from_bytes(head[:8], "little")
    return 2 <= length <= size - 8 and head[8:9] == b"{"


def _foreign(head: bytes, size: int) -> str:
    """What a file is that no weights are read from, as the end of a sentence."""
    if not head:
        return "is empty. Download or save it again."
    for beginning, what in _FOREIGN:
        if head.startswith(beginning):
            return what
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_PAGES):
        return (
            "is a web page, not the file that its link promised: the server may want a login. Open "
            "it in a browser, and download the file itself."
        )
    if head[257:262] == b"ustar":
        return (
            "is a tar archive. Unpack it and give the file inside; where torch wrote it (before "
            "version 0.1.10), load it with a torch of that time and save its state_dict() again."
        )
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return (
            "is a pickle that torch.save did not write. Where it was made, save the weights by "
            "torch.save(model.state_dict(), 'weights.pth')."
        )
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x3a"):
        return (
            "looks like an ONNX file: a graph, whose weights have no layers' names. segzoo predict "
            f"runs one that segzoo export wrote. {_OTHER}"
        )
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return (
            f"begins as safetensors and ends too early: it has {size} bytes, and claims a header "
            f"of {int.from_bytes(head[:8], 'little')}. Download or save it again."
        )
    if text.startswith((b"{", b"[")):
        return f"is JSON, no weights. {_OTHER}"
    if head[4:8] == b"TFL3":
        return f"is a TensorFlow Lite file. {_OTHER}"
    if not any(byte < 9 for byte in head):
        return f"is text, no weights. {_OTHER}"
    return f"is of no kind that is known here (it begins with {head[:8].hex(' ')}). {_OTHER}"
