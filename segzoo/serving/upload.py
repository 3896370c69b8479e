"""The picture in a body: the body itself, a file of a form, or base64 in the Hub's JSON."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from .. import checks
from ..errors import ArgumentError, nearest
from .body import BodyKind, form_parser, too_large
from .refused import RefusedError

#: Parameters that the Hub's schema has and that mean nothing where each pixel has one class.
_FOR_OTHER_TASKS = ("mask_threshold", "overlap_mask_area_threshold")
#: Parts of a form that are looked at.
_MOST_PARTS = 16
#: A text in quotes, closed or not, and how a header says that its part is a file.
_QUOTED = re.compile(rb'"(?:\\.|[^"\\])*(?:"|\\?\Z)', re.DOTALL)
_FILE = re.compile(rb";\s*filename\*?\s*=", re.IGNORECASE)


@dataclass(frozen=True)
class Upload:
    """A picture as it came.

    Args:
        picture: The bytes of its file.
        threshold: Classes of a lower score are left out of the answer.
    """

    picture: bytes
    threshold: float = 0.0


def unpacked(kind: BodyKind, body: bytes, *, max_bytes: int) -> Upload:
    """The picture in a body.

    Raises:
        RefusedError: 400 for a body that is not what it says, 413, 415 or 422.
    """
    if kind.name == "json":
        upload = _from_json(body)
    elif kind.name == "multipart":
        upload = _from_form(body, kind.boundary)
    else:
        upload = Upload(body)
    if len(upload.picture) > max_bytes:
        raise too_large(max_bytes)
    if not upload.picture:
        raise RefusedError(415, "The body is empty. Send the bytes of a picture.")
    return upload


def _from_json(body: bytes) -> Upload:
    """What the Hub's client sends where it has parameters: ``{"inputs": base64, ...}``."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The body says that it is JSON, and is not.") from None
    inputs = content.get("inputs") if isinstance(content, dict) else None
    if not isinstance(inputs, str):
        raise RefusedError(
            422, 'The JSON must be {"inputs": "the picture in base64", "parameters": {...}}.'
        )
    try:
        picture = base64.b64decode(inputs, validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError(422, "inputs must be the bytes of a picture in base64.") from None
    return Upload(picture, _threshold(content.get("parameters")))


def _threshold(parameters: object) -> float:
    """The one parameter of the Hub's schema that has a meaning here."""
    given = {} if parameters is None else parameters
    if not isinstance(given, dict):
        raise RefusedError(422, "parameters must be an object.")
    threshold = 0.0
    for name, value in given.items():
        if value is None or (name == "subtask" and value == "semantic"):
            continue
        if name == "subtask":
            raise RefusedError(
                422, f"This model does semantic segmentation, not {checks.shown(value)}."
            )
        if name in _FOR_OTHER_TASKS:
            raise RefusedError(
                422, f"Each pixel has one class here, so {name} has no meaning. Leave it out."
            )
        if name != "threshold":
            known = ("threshold", "subtask")
            raise RefusedError(
                422, f"There is no parameter {checks.shown(name)}.{nearest(str(name), known)}"
            )
        try:
            threshold = checks.number(name, value, minimum=0, maximum=1)
        except ArgumentError as error:
            raise RefusedError(422, str(error)) from None
    return threshold


@dataclass
class _Form:
    """What a parser of a form has found."""

    files: list[bytes] = field(default_factory=list)
    ended: bool = False
    parts: int = 0
    _name: bytes = b""
    _value: bytes = b""
    _is_file: bool = False
    _data: list[bytes] = field(default_factory=list)

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._is_file = False
        self._data = []
        self.parts += 1
        if self.parts > _MOST_PARTS:  # each takes its time, however small it is
            raise RefusedError(
                422, f"The form has more than {_MOST_PARTS} parts. Send one picture."
            )

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":  # a field may have that word in its name
            self._is_file = _FILE.search(_QUOTED.sub(b"", self._value)) is not None
        self._name = self._value = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._data.append(data[start:end])

    def _part_end(self) -> None:
        if self._is_file:
            self.files.append(b"".join(self._data))

    def _end(self) -> None:
        self.ended = True


def _from_form(body: bytes, boundary: bytes) -> Upload:
    parsers = form_parser()
    form = _Form()
    try:
        parsers.MultipartParser(boundary, form.callbacks()).write(body)
    except parsers.FormParserError:
        form.ended = False
    if not form.ended:
        raise RefusedError(
            400, "The body says that it is a form (multipart/form-data), and is not."
        )
    if len(form.files) != 1:
        raise RefusedError(
            422, f"The form has {len(form.files)} files. Send one picture with each request."
        )
    return Upload(form.files[0])
