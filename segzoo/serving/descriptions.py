"""What OpenAPI says of the addresses, with examples."""

from __future__ import annotations

from typing import Any

ABOUT = (
    "The class of each pixel of a picture. Without `format` the answer has a segment for each "
    "class that was found, as the image segmentation of the Hugging Face Hub gives it: its `score` "
    "is the mean of the class's probability over the pixels of the segment. With `format=mask` it "
    "is one PNG of the picture's size whose values are the numbers of the classes. Pictures are "
    "turned upright where their EXIF data says so; their size is checked before they are decoded, "
    "and nothing is written to a disk."
)

_MASK = (
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAAAAADRSSBWAAAAC0lEQVR4nGNg+A8AAQIBAHwTNs0AAAAASUVORK5CYII="
)
_BINARY = {"schema": {"type": "string", "format": "binary"}}

#: The body of a request.
REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": "The bytes of a picture: raw, in a form, or in base64 as the Hub's client sends "
    "it with parameters.",
    "content": {
        **{f"image/{kind}": _BINARY for kind in ("jpeg", "png", "tiff", "webp")},
        "application/octet-stream": _BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "string", "format": "binary"}},
                "required": ["image"],
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "inputs": {"type": "string", "format": "byte"},
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "threshold": {
                                "type": "number",
                                "minimum": 0,
                                "maximum": 1,
                                "description": "Segments of a lower score are left out.",
                            },
                            "subtask": {"type": "string", "enum": ["semantic"]},
                        },
                        "additionalProperties": False,
                    },
                },
                "required": ["inputs"],
            },
            "example": {"inputs": _MASK, "parameters": {"threshold": 0.5}},
        },
    },
}

#: What stands in the address.
PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "format",
        "in": "query",
        "required": False,
        "description": "`json`: segments. `mask`: a PNG of the numbers of the classes, with a "
        "palette, or with 16 bits grey above 256 classes.",
        "schema": {"type": "string", "enum": ["json", "mask"], "default": "json"},
    }
]

_ERROR_SCHEMA = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}


def _error(description: str, sentence: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": _ERROR_SCHEMA, "example": {"error": sentence}}},
    }


#: The answers to a picture, by status.
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The segments, or the mask.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "label": {"type": "string"},
                            "score": {"type": "number", "minimum": 0, "maximum": 1},
                            "mask": {"type": "string", "format": "byte"},
                        },
                        "required": ["label", "score", "mask"],
                    },
                },
                "example": [{"label": "road", "score": 0.97, "mask": _MASK}],
            },
            "image/png": _BINARY,
        },
    },
    400: _error("The body is damaged.", "The body says that it is JSON, and is not."),
    408: _error(
        "The upload took too long.",
        "The body was not here after 60 seconds. Send a smaller picture, or use a faster "
        "connection.",
    ),
    413: _error(
        "Too many bytes or pixels.",
        "The picture has 30000x30000 pixels, more than the limit of 4,194,304. Send a smaller one.",
    ),
    415: _error(
        "No picture, or one that cannot be read truly.",
        "The file cannot be read as a picture: it is none of PNG, JPEG, ..., or damaged.",
    ),
    422: _error(
        "A picture that this model cannot take, or a parameter that cannot work.",
        "The picture has 7 bands, and this server's model takes 3.",
    ),
    503: {
        **_error(
            "All places are taken.",
            "The server is busy: all 18 places are taken. Try again in a while.",
        ),
        "headers": {
            "Retry-After": {
                "description": "Seconds after which a place should be free.",
                "schema": {"type": "integer"},
            }
        },
    },
    504: _error(
        "The answer took too long.",
        "There was no answer within 60 seconds. Send a smaller picture, or try again when the "
        "server has less to do.",
    ),
}

#: The answers to the question whether it lives.
HEALTH: dict[int | str, dict[str, Any]] = {
    503: _error(
        "Its GPU is lost.",
        "The GPU computes nothing more for this process: start the server again.",
    )
}

#: The answers to the question whether it is ready.
READINESS: dict[int | str, dict[str, Any]] = {
    503: _error("All places are taken.", "All places are taken.")
}
