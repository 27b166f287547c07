"""How much does a case take of the invoke server, against a fresh process for each case?

    python -m benchmark.invoke_time --cases 7

Starts `process.py serve` and runs the same case of 16 crops through it and through `process.py`, in turn, on the CPU;
medians and their ratio go to `benchmark/results/invoke_time.json`.
"""

import argparse
import http.client
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmark.measuring import CROPS, REPOSITORY, median_and_range, median_ratio, save, timed, write_case


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
        serve = [*command, "serve", "--port", str(port), *options]
        server = subprocess.Popen(serve, cwd=REPOSITORY, stderr=subprocess.DEVNULL)

        def until_healthy() -> None:
            while request(port, "GET", "/health") != 200:
                if server.poll() is not None:
                    sys.exit(
                        f"The server has ended with status {server.returncode}; start it by hand: {' '.join(serve)}"
                    )
                time.sleep(0.02)

        def execute() -> None:
            subprocess.run([*command, *options], check=True, cwd=REPOSITORY, stderr=subprocess.DEVNULL)

        def invoke() -> None:
            if request(port, "POST", "/invoke") != 201:
                sys.exit("The server failed the case.")

        try:
            start_up = timed(until_healthy)
            runs = [{"invoke": timed(invoke), "exec": timed(execute)} for _ in range(arguments.cases + 1)][1:]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    seconds = {name: [run[name] for run in runs] for name in ("exec", "invoke")}
    figures = {"crops": CROPS, "runs": arguments.cases, "server_start_seconds": round(start_up, 2)}
    figures |= {name: median_and_range(values) for name, values in seconds.items()}
    figures["times_faster"] = median_ratio(seconds["exec"], seconds["invoke"])
    save("invoke_time", figures)


if __name__ == "__main__":
    main()
