"""The invoke server, as a process and over HTTP, as the platform uses it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from helpers import REPOSITORY, check_result, write_case

from model.modes.grand_challenge import RESULT_FILE
from model.modes.server import Service, create_app


class Server:
    """A running `process.py serve` with its folders."""

    def __init__(self, folder: Path, weights: Path, *options: str) -> None:
        self.input, self.output = folder / "input", folder / "output"
        self.output.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(REPOSITORY / "process.py"),
                    "serve",
                    "--input",
                    str(self.input),
                    "--output",
                    str(self.output),
                    "--weights",
                    str(weights),
                    "--port",
                    str(self.port),
                    *options,
                ],
                stderr=log,
                start_new_session=True,
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def wait(self) -> list[int]:
        """Waits until it is healthy; returns the statuses on the way."""
        statuses, end = [], time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            try:
                statuses.append(self.client.get("/health").status_code)
                if statuses[-1] == 200:
                    return statuses
            except httpx.ConnectError:
                pass
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def case(self, crops: list[np.ndarray], **options: str) -> Path:
        """Puts a case into the input folder as the platform does: a symbolic link to a new folder."""
        new = self.input.with_name(f"input-{time.monotonic_ns()}")
        new.mkdir()
        stack = write_case(new, crops, **options)
        self.input.unlink(missing_ok=True)
        self.input.symlink_to(new, target_is_directory=True)
        return stack

    def stop(self) -> int:
        """Ends it as the platform does; returns the exit status."""
        os.killpg(self.process.pid, signal.SIGTERM)
        return self.process.wait(timeout=5)


@pytest.fixture
def server(tmp_path: Path, small_weights: Path) -> Iterator[Server]:
    running = Server(tmp_path, small_weights, "--device", "cpu")
    yield running
    running.client.close()
    if running.process.poll() is None:
        os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()


def test_case_after_case_goes_through_one_server(server: Server, crops: list[np.ndarray], small_weights: Path) -> None:
    server.wait()
    for chosen, suffix in ((crops, ".tiff"), (crops[:2], ".mha"), (crops[3:], ".tif")):
        server.case(chosen, suffix=suffix)
        answer = server.client.post("/invoke")
        assert answer.status_code == 201, answer.text
        entries = check_result(server.output, len(chosen))
        alone = server.output.with_name("alone")
        command = [sys.executable, str(REPOSITORY / "process.py"), "--input", str(server.input), "--output", str(alone)]
        subprocess.run([*command, "--weights", str(small_weights), "--device", "cpu"], check=True, capture_output=True)
        assert json.loads((alone / RESULT_FILE).read_text()) == entries
    assert server.stop() == 0


def test_a_bad_case_is_answered_with_its_sentence_and_the_next_one_is_served(
    server: Server, crops: list[np.ndarray]
) -> None:
    server.wait()
    server.case(crops)
    assert server.client.post("/invoke").status_code == 201
    stack = server.case(crops)
    stack.write_bytes(stack.read_bytes()[:5000])
    answer = server.client.post("/invoke")
    assert answer.status_code == 422 and "stack.tiff" in answer.json()["detail"]
    assert server.log.read_text().strip().splitlines()[-1] == answer.json()["detail"]
    assert list(server.output.iterdir()) == [], "what the earlier case left must be gone"
    server.case(crops[:1])
    assert server.client.post("/invoke").status_code == 201
    check_result(server.output, 1)


def test_the_result_of_a_case_that_cannot_be_written_is_a_bad_case(server: Server, crops: list[np.ndarray]) -> None:
    server.wait()
    server.case(crops)
    shutil.rmtree(server.output)
    server.output.write_text("a file where the folder should be")
    assert server.client.post("/invoke").status_code == 422
    server.output.unlink()
    assert server.client.post("/invoke").status_code == 201


def test_there_are_no_redirects_and_no_other_pages(server: Server) -> None:
    server.wait()
    for path in ("/health/", "/", "/docs", "/openapi.json"):
        assert server.client.get(path).status_code == 404
    assert server.client.get("/invoke").status_code == 405
    assert server.client.post("/invoke").status_code == 422


def test_weights_that_cannot_be_used_end_it_with_a_sentence(tmp_path: Path) -> None:
    server = Server(tmp_path, tmp_path / "nowhere")
    assert server.process.wait(timeout=60) == 1
    assert "is no weights folder" in server.log.read_text().strip().splitlines()[-1]
    server.client.close()


def test_a_port_that_is_taken_is_said(tmp_path: Path, small_weights: Path, server: Server) -> None:
    server.wait()
    (tmp_path / "second").mkdir()
    second = Server(tmp_path / "second", small_weights, "--port", str(server.port))
    assert second.process.wait(timeout=60) == 1
    assert "cannot listen on 127.0.0.1" in second.log.read_text().strip().splitlines()[-1]
    second.client.close()


def test_sigterm_while_loading_ends_it(server: Server) -> None:
    while "Weights:" not in server.log.read_text():
        time.sleep(0.01)
    assert server.stop() == 0


@pytest.mark.slow
def test_sigterm_in_the_middle_of_a_case_leaves_no_half_result(server: Server, crops: list[np.ndarray]) -> None:
    server.wait()
    server.case(crops * 1500)
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(server.client.post("/invoke").status_code)
        except httpx.HTTPError as error:
            answers.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(1.0)
    assert not answers, "the case must still be running"
    start = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - start < 5
    asking.join(timeout=10)
    assert answers and answers[0] != 201
    assert list(server.output.iterdir()) == []


class FakePredictor:
    """Takes its time and tells when it is at work."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.works = True

    def warm_up(self) -> None:
        self.ready.wait(10)

    def responds(self) -> bool:
        return self.works


def test_health_is_503_until_the_model_has_run_and_invoke_is_refused() -> None:
    predictor = FakePredictor()
    service = Service(lambda: predictor, lambda: None)
    loading = threading.Thread(target=service.start)
    loading.start()
    assert service.health().status_code == 503 and service.invoke().status_code == 503
    predictor.ready.set()
    loading.join()
    assert service.health().status_code == 200 and service.invoke().status_code == 201


def test_overlapping_calls_do_not_mix() -> None:
    inside, most, calls_made = [0], [0], [0]

    def handle() -> None:
        inside[0] += 1
        calls_made[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        inside[0] -= 1

    predictor = FakePredictor()
    predictor.ready.set()
    service = Service(lambda: predictor, handle)
    service.start()
    calls = [threading.Thread(target=service.invoke) for _ in range(8)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert most[0] == 1 and calls_made[0] == 8


def test_a_fault_of_the_program_is_500_and_survived() -> None:
    faults = [ZeroDivisionError("a fault"), None]

    def handle() -> None:
        fault = faults.pop(0)
        if fault is not None:
            raise fault

    predictor = FakePredictor()
    predictor.ready.set()
    service = Service(lambda: predictor, handle)
    service.start()
    assert service.invoke().status_code == 500
    assert service.invoke().status_code == 201


def test_after_the_gpu_stopped_working_it_is_not_healthy_any_more() -> None:
    def handle() -> None:
        predictor.works = False
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    predictor = FakePredictor()
    predictor.ready.set()
    service = Service(lambda: predictor, handle)
    service.start()
    assert service.health().status_code == 200
    assert service.invoke().status_code == 500
    assert service.health().status_code == 503


def test_health_can_be_asked_for_without_a_body(server: Server) -> None:
    server.wait()
    answer = server.client.head("/health")
    assert answer.status_code == 200 and answer.content == b""


@pytest.mark.slow
def test_a_request_that_does_not_come_is_not_waited_for(server: Server) -> None:
    server.wait()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n")
        start = time.monotonic()
        while time.monotonic() - start < 25 and slow.recv(1000):
            pass
        assert time.monotonic() - start < 20
    assert server.client.get("/health").status_code == 200


def test_the_app_has_just_the_two_endpoints() -> None:
    service = Service(lambda: None, lambda: None)
    assert {route.path for route in create_app(service).routes} == {"/health", "/invoke"}
