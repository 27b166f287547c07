"""The platform's invoke API: the model is loaded once, then one case after another comes to the same server.

`GET /health` answers 503 while the model loads, 200 once it has run, and 503 again after the GPU stopped working, which
only a new process can mend. `POST /invoke` handles the case that is in the
input folder now: 201 when the result is complete on disk, 422 with one sentence when the case or its folders are at
fault, 500 when the program is. A failed case does not end the server.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from model.errors import CaseError, CropError, UserError, one_line
from model.modes.process_state import answer_signals

if TYPE_CHECKING:  # `load` imports PyTorch, after the port answers
    from model.predictor import Predictor

logger = logging.getLogger(__name__)

SECONDS_FOR_HEADERS = 10
"""How long a request's headers may take."""

SECONDS_TO_FINISH = 2
"""After SIGTERM, how long a case that is being handled may go on; the platform kills the process after 5 s."""


class Service:
    """A predictor that is loaded once and handles one case at a time.

    Args:
        load: makes the predictor.
        handle: handles the case in the input folder.
    """

    def __init__(self, load: Callable[[], Predictor], handle: Callable[[], object]) -> None:
        self._load = load
        self._handle = handle
        self._predictor: Predictor | None = None
        self._broken = False
        self._one_case = threading.Lock()

    def start(self) -> None:
        """Loads the predictor and runs it once.

        Raises:
            UserError: the weights cannot be used, or the network cannot run.
        """
        predictor = self._load()
        predictor.warm_up()
        self._predictor = predictor

    def health(self) -> JSONResponse:
        """200 once the model has run, 503 until then and after the GPU stopped working."""
        status = "broken" if self._broken else "loading" if self._predictor is None else "ready"
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    def invoke(self) -> JSONResponse:
        """Handles the case that is in the input folder now; calls that overlap wait for each other."""
        with self._one_case:
            if self._predictor is None:
                return JSONResponse({"detail": "The model is still loading; ask /health first."}, 503)
            try:
                self._handle()
            except (CaseError, CropError) as error:
                return _failed(one_line(error), 422)
            except Exception as error:
                self._broken = not self._predictor.responds()
                if self._broken:
                    logger.error("The GPU does not work any more; start the server again.")
                if isinstance(error, UserError):
                    return _failed(one_line(error), 500)
                logger.error("", exc_info=error)
                return _failed("The case failed through a fault of the program; see the log.", 500)
            return JSONResponse({"status": "done"}, 201)


def _failed(sentence: str, status: int) -> JSONResponse:
    logger.error(sentence)
    return JSONResponse({"detail": sentence}, status)


def create_app(service: Service) -> FastAPI:
    """The two endpoints, without documentation pages and without redirects."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.api_route("/health", methods=["GET", "HEAD"])(service.health)
    app.post("/invoke")(service.invoke)
    return app


class _ImpatientProtocol(H11Protocol):
    """Closes a connection whose request does not come: its headers, or the next one's, take too long."""

    def connection_made(self, transport: Any) -> None:  # asyncio and uvicorn differ on its type
        super().connection_made(transport)
        self._wait_for_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_request()

    def _wait_for_request(self) -> None:
        self.loop.call_later(SECONDS_FOR_HEADERS, self._close_if_waiting)

    def _close_if_waiting(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


def serve(
    load: Callable[[], Predictor],
    handle: Callable[[], object],
    clean_up: Callable[[], object],
    host: str,
    port: int,
) -> int:
    """Serves until SIGTERM or SIGINT.

    Args:
        load: makes the predictor; runs while `/health` already answers.
        handle: handles the case in the input folder.
        clean_up: removes what an unfinished case left; called at the very end.
        host: address to listen on.
        port: port to listen on.

    Returns:
        The exit status when the model cannot be loaded: 1. A signal ends the process with 0.

    Raises:
        CaseError: the port is taken or cannot be used.
    """
    try:
        listening = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise CaseError(
            f"The server cannot listen on {host}:{port} ({error}); give another --host or --port."
        ) from error
    service = Service(load, handle)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(service),
            http=_ImpatientProtocol,
            log_level="warning",
            timeout_graceful_shutdown=SECONDS_TO_FINISH,
        )
    )
    failures: list[str] = []

    def start() -> None:
        try:
            service.start()
            logger.info("Ready on port %d.", port)
        except UserError as error:
            failures.append(one_line(error))
        except Exception:
            logger.exception("Loading failed.")
            failures.append("The model could not be loaded through a fault of the program; see the log above.")
        if failures:
            server.should_exit = True

    # uvicorn raises the signal again once it has shut down in good order, which is when this answers.
    answer_signals(lambda _: 0, clean_up)
    threading.Thread(target=start, daemon=True).start()
    server.run(sockets=[listening])
    with contextlib.suppress(OSError):
        for sentence in failures:
            print(sentence, file=sys.stderr, flush=True)
    return 1
