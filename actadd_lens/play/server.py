"""The playground's server: a few requests, answered by a session, on this machine only."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from actadd_lens.errors import ActAddError, SettingError
from actadd_lens.pages.html import one_file, part
from actadd_lens.play.session import Session
from actadd_lens.play.settings import Settings

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HERE = "127.0.0.1"
_LARGEST = 256 * 2**20
"""Most bytes of a request: a steering vector's file."""

Found = TypeVar("Found")


class _LeftError(Exception):
    """The page no longer wants what is being written."""


def page() -> str:
    """The page's HTML."""
    room = "actadd_lens.play"
    return one_file(title="actadd play", body=part(room, "page.html"), script=part(room, "page.js"), talks=True)


def app_of(session: Session) -> "Starlette":
    """The application that serves a session.

    It answers to names of this machine only, and to its own page only, so that no other site that is open in the
    browser can use the model. All passes run in one thread, one after the other.

    Raises:
        SettingError: The extra `[play]` is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.routing import Route
    except ImportError:
        raise missing() from None
    answers = _Answers(session)
    names = [HERE, "localhost", "testserver"]
    return Starlette(
        routes=[
            Route("/", answers.page),
            Route("/facts", answers.facts),
            *(Route(f"/{name}", getattr(answers, name), methods=["POST"]) for name in _POSTS),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=names)],
    )


_POSTS = ("look", "read", "write", "measure", "vector", "save")


def missing() -> SettingError:
    """What is said where the extra is not installed."""
    return SettingError('The playground needs starlette and uvicorn: pip install "actadd-lens[play]".')


class _Answers:
    """One answer for each request."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._page = page()

    async def page(self, request: "Request") -> "Response":
        from starlette.responses import HTMLResponse

        return HTMLResponse(self._page)

    async def facts(self, request: "Request") -> "Response":
        return await self._answer(request, lambda told: self._session.facts(), reads=False)

    async def look(self, request: "Request") -> "Response":
        return await self._answer(request, lambda told: self._session.look(Settings.from_json(told)))

    async def read(self, request: "Request") -> "Response":
        return await self._answer(
            request, lambda told: self._session.read(Settings.from_json(told["settings"]), told["reading"])
        )

    async def measure(self, request: "Request") -> "Response":
        return await self._answer(
            request,
            lambda told: self._session.measure(
                Settings.from_json(told["settings"]), told["measure"], told["nulls"], tuple(told["tokens"])
            ),
        )

    async def vector(self, request: "Request") -> "Response":
        return await self._answer(request, self._session.upload, is_file=True)

    async def save(self, request: "Request") -> "Response":
        return await self._answer(request, lambda told: self._session.save(Settings.from_json(told)))

    async def write(self, request: "Request") -> "Response":
        """Lines of JSON as the texts grow, the last one with their tokens, or with what went wrong."""
        from starlette.responses import StreamingResponse

        try:
            settings = Settings.from_json(await _told(request, is_file=False))
        except ActAddError as error:
            return _refusal(error)
        return StreamingResponse(self._lines(settings), media_type="application/x-ndjson")

    async def _lines(self, settings: Settings) -> AsyncIterator[str]:
        loop, lines = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()
        has_left = threading.Event()

        def send(told: dict[str, Any] | None) -> None:
            if has_left.is_set():
                raise _LeftError
            loop.call_soon_threadsafe(lines.put_nowait, told)

        def run() -> None:
            try:
                send({"written": self._session.write(settings, send)})
            except _LeftError:
                return
            except Exception as error:
                send({"error": _message(error)})
            send(None)

        self._thread.submit(run)
        try:
            while (told := await lines.get()) is not None:
                yield json.dumps(told) + "\n"
        finally:
            has_left.set()

    async def _answer(
        self, request: "Request", answer: Callable[[Any], Any], *, reads: bool = True, is_file: bool = False
    ) -> "Response":
        from starlette.responses import JSONResponse, Response

        try:
            told = await _told(request, is_file=is_file) if reads else None
            found = await asyncio.get_running_loop().run_in_executor(self._thread, answer, told)
        except Exception as error:
            return _refusal(error)
        if isinstance(found, bytes):
            return Response(found, media_type="application/octet-stream")
        return JSONResponse(_finite(found))


async def _told(request: "Request", *, is_file: bool) -> Any:
    """What a request brings, once it is known to come from our own page.

    Raises:
        SettingError: It comes from another site, is no JSON, or is too large.
    """
    origin = request.headers.get("origin")
    if origin is not None and origin != f"{request.url.scheme}://{request.headers.get('host')}":
        raise SettingError(f"This playground answers its own page only, not {origin}.")
    if int(request.headers.get("content-length") or 0) > _LARGEST:
        raise SettingError(f"The file is larger than {_LARGEST >> 20} MiB, so it is not a steering vector.")
    body = await request.body()
    if is_file:
        return body
    try:
        return json.loads(body)
    except ValueError as error:
        raise SettingError(f"The request is no JSON ({error}).") from error


def _refusal(error: Exception) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse({"error": _message(error)}, status_code=400 if isinstance(error, ActAddError) else 500)


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, ActAddError) else f"{type(error).__name__}: {error}"


def _finite(value: Any) -> Any:
    """Plain values with None for what is not a number, which JSON does not have."""
    from actadd_lens.pages.html import plain

    return plain(value)
