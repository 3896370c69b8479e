"""The addresses of a server, and what each answers. Needs FastAPI when it is imported."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from .._version import __version__
from .descriptions import ABOUT, ANSWERS, HEALTH, PARAMETERS, READINESS, REQUEST_BODY
from .pipeline import Pipeline
from .refused import ClientGoneError, RefusedError

_LOG = logging.getLogger("segzoo.serving")
#: Status of an answer that nobody waits for any more, as web servers write it in their logs.
_GONE = 499
_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "json": "application/json",
}
#: Answers are what they say they are, and no other site may show them as a part of itself.
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


def make_app(pipeline: Pipeline, *, title: str, files: dict[str, bytes] | str) -> FastAPI:
    """The application.

    Args:
        pipeline: What answers requests for masks.
        title: Of its description.
        files: Of the page by name, or why there is none.
    """
    # Its pages of documentation load scripts from elsewhere.
    app = FastAPI(
        title=title, version=__version__, description=ABOUT, docs_url=None, redoc_url=None
    )
    app.add_exception_handler(HTTPException, _http_error)
    _add_segment(app, pipeline)
    _add_machines(app, pipeline)
    _add_page(app, files)
    return app


def _add_segment(app: FastAPI, pipeline: Pipeline) -> None:
    async def segment(request: Request) -> Response:
        """Segment a picture."""
        try:
            given = await pipeline.answer(request.receive, request.headers, request.query_params)
            response = Response(given.content, media_type=given.media_type, headers=_HEADERS)
        except RefusedError as refused:
            response = _error(refused.status, refused.sentence, refused.headers)
        except ClientGoneError:
            response = Response(status_code=_GONE)
        except Exception:  # whatever it is, it is told in our words, and in the log
            _LOG.exception("a picture could not be segmented")
            response = _error(500, "The server could not segment this picture; its log says why.")
        pipeline.metrics.answered(response.status_code)
        return response

    app.post(
        "/v1/segment",
        summary="Segment a picture",
        description=ABOUT,
        responses=ANSWERS,
        response_model=None,
        openapi_extra={"requestBody": REQUEST_BODY, "parameters": PARAMETERS},
    )(segment)
    # Where clients of the Hub's endpoints look that are given no path.
    app.post("/", include_in_schema=False, response_model=None)(segment)


def _add_machines(app: FastAPI, pipeline: Pipeline) -> None:
    lost = "The GPU computes nothing more for this process: start the server again."

    @app.get("/health", summary="Whether the server is alive", responses=HEALTH)
    async def health() -> Response:
        """503 once its GPU is lost, as after an illegal memory access: only a restart helps."""
        return _error(503, lost) if pipeline.lost else JSONResponse({"status": "ok"})

    @app.get("/ready", summary="Whether a picture would be taken now", responses=READINESS)
    async def ready() -> Response:
        """503 while all places are taken: send the next picture to another server."""
        if pipeline.lost:
            return _error(503, lost)
        if pipeline.desk.full:
            return _error(503, "All places are taken.")
        return JSONResponse({"status": "ready"}, headers=_HEADERS)

    @app.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        """In the text format of Prometheus."""
        return Response(pipeline.metrics.text(), media_type=pipeline.metrics.media_type)


def _add_page(app: FastAPI, files: dict[str, bytes] | str) -> None:
    def add(path: str, name: str, content: bytes) -> None:
        media_type = _MEDIA_TYPES.get(name.rpartition(".")[2], "application/octet-stream")

        async def page_file() -> Response:
            return Response(content, media_type=media_type, headers=_HEADERS)

        app.get(path, include_in_schema=False)(page_file)

    if isinstance(files, str):
        reason = files

        async def no_page() -> Response:
            return _error(404, reason)

        app.get("/", include_in_schema=False)(no_page)
        return
    for name, content in files.items():
        add(f"/{name}", name, content)
    add("/", "index.html", files["index.html"])


async def _http_error(request: Request, error: Any) -> Response:
    """What is no address of ours, or not in this way."""
    sentence = {
        404: "There is nothing at this address. POST pictures to v1/segment.",
        405: "This address does not take that method. POST pictures to v1/segment.",
    }.get(error.status_code, str(error.detail))
    return _error(error.status_code, sentence, error.headers)


def _error(status: int, sentence: str, headers: Any = None) -> Response:
    return JSONResponse(
        {"error": sentence}, status_code=status, headers={**_HEADERS, **(headers or {})}
    )
