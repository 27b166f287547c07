"""How much does a case take of the invoke server, against a fresh process for each case?

    make benchmark
    python -m benchmark.invoke_time --cases 7

Starts `process.py serve` and runs the same case of 16 crops through it and through `process.py`, in turn, on the CPU;
prints medians and their ratio as JSON.
"""

import argparse
import http.client
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmark.measuring import CROPS, REPOSITORY, median_and_range, write_case


def request(port: int, method: str, path: str) -> int:
    """Status of an HTTP request to the server; 0 while it does not listen."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except ConnectionRefusedError:
        return 0
    finally:
        connection.close()


def timed(action) -> float:
    """Seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5, help="counted cases, after one that is not (default: 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        folder = Path(name)
        write_case(folder / "input")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "process.py"]
        options = ["--device", "cpu", "--input", str(folder / "input"), "--output", str(folder / "output")]
        quiet = {"cwd": REPOSITORY, "stderr": subprocess.DEVNULL}
        server = subprocess.Popen([*command, "serve", "--port", str(port), *options], **quiet)

        def until_healthy() -> None:
            while request(port, "GET", "/health") != 200:
                time.sleep(0.02)

        def invoke() -> None:
            if request(port, "POST", "/invoke") != 201:
                sys.exit("The server failed the case.")

        try:
            start_up = timed(until_healthy)
            runs = [
                {
                    "invoke": timed(invoke),
                    "exec": timed(lambda: subprocess.run([*command, *options], check=True, **quiet)),
                }
                for _ in range(arguments.cases + 1)
            ][1:]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    figures = {name: median_and_range([run[name] for run in runs]) for name in ("exec", "invoke")}
    ratio = statistics.median(run["exec"] / run["invoke"] for run in runs)
    print(
        json.dumps(
            {"crops": CROPS, "cases": arguments.cases, "server_start_seconds": round(start_up, 2)}
            | figures
            | {"exec_over_invoke": round(ratio, 1)},
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
