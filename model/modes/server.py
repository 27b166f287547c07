"""The platform's invoke API: the model is loaded once, then one case after another comes to the same server.

`GET /health` answers 503 while the model loads and 200 once it has run. `POST /invoke` handles the case that is in the
input folder now: 201 when the result is complete on disk, 422 with one sentence when the case or its folders are at
fault, 500 when the program is. A failed case does not end the server.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from model.errors import CaseError, CropError, UserError, one_line

if TYPE_CHECKING:  # `load` imports PyTorch, after the port answers
    from model.predictor import Predictor

logger = logging.getLogger(__name__)

SECONDS_TO_FINISH = 2
"""After SIGTERM, how long a case that is being handled may go on; the platform kills the process after 5 s."""


class Service:
    """A predictor that is loaded once and handles one case at a time.

    Args:
        load: makes the predictor.
        handle: handles the case in the input folder with it.
    """

    def __init__(self, load: Callable[[], Predictor], handle: Callable[[Predictor], object]) -> None:
        self._load = load
        self._handle = handle
        self._predictor: Predictor | None = None
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
        """200 once the model has run, 503 until then."""
        ready = self._predictor is not None
        return JSONResponse({"status": "ready" if ready else "loading"}, 200 if ready else 503)

    def invoke(self) -> JSONResponse:
        """Handles the case that is in the input folder now; calls that overlap wait for each other."""
        with self._one_case:
            if self._predictor is None:
                return JSONResponse({"detail": "The model is still loading; ask /health first."}, 503)
            try:
                self._handle(self._predictor)
            except UserError as error:
                logger.error(one_line(error))
                of_the_case = isinstance(error, (CaseError, CropError))
                return JSONResponse({"detail": one_line(error)}, 422 if of_the_case else 500)
            except Exception:
                logger.exception("The case failed through a fault of the program.")
                return JSONResponse({"detail": "The case failed through a fault of the program; see the log."}, 500)
            return JSONResponse({"status": "done"}, 201)


def create_app(service: Service) -> FastAPI:
    """The two endpoints, without documentation pages and without redirects."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.get("/health")(service.health)
    app.post("/invoke")(service.invoke)
    return app


def serve(
    load: Callable[[], Predictor],
    handle: Callable[[Predictor], object],
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
        uvicorn.Config(create_app(service), log_level="warning", timeout_graceful_shutdown=SECONDS_TO_FINISH)
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

    def finish(_: int, __: FrameType | None) -> None:
        clean_up()
        logging.shutdown()
        os._exit(0)  # a thread that is still computing cannot be stopped otherwise

    # uvicorn raises the signal again once it has shut down in good order, which is when this runs.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, finish)
    threading.Thread(target=start, daemon=True).start()
    server.run(sockets=[listening])
    for sentence in failures:
        print(sentence, file=sys.stderr)
    sys.stderr.flush()
    return 1
