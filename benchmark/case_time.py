"""How long does a user wait for one case, and how much memory does it take, from process start to JSON?

    make benchmark
    python -m benchmark.case_time --runs 7 --cores 2 --views d4

Runs `process.py` on a case of 16 crops, in turn with a process that only imports PyTorch and timm, which no program
built on them can beat; prints medians and their ratio as JSON.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmark.measuring import CROPS, REPOSITORY, median_and_range, write_case


def measure(command: list[str], cores: int) -> tuple[float, float]:
    """Wall time in seconds and peak resident memory in MiB of a process restricted to some processors."""
    chosen = set(sorted(os.sched_getaffinity(0))[:cores])
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, chosen),
    )
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status != 0:
        sys.exit(f"{' '.join(command)} failed: {errors}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="counted runs, after one that is not (default: 5)")
    parser.add_argument("--cores", type=int, default=2, help="processors to use (default: 2)")
    parser.add_argument("--views", default="d4", help="views averaged (default: d4)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_case(folder / "input")
        commands = {
            "case": [
                sys.executable, "process.py", "--device", "cpu", "--views", arguments.views,
                "--input", str(folder / "input"), "--output", str(folder / "output"),
            ],
            "imports": [sys.executable, "-c", "import torch, timm"],
        }  # fmt: skip
        runs = [
            {name: measure(command, arguments.cores) for name, command in commands.items()}
            for _ in range(arguments.runs + 1)
        ][1:]
    figures: dict = {
        "machine": platform.machine(), "cores": arguments.cores, "crops": CROPS, "views": arguments.views,
        "runs": arguments.runs,
    }  # fmt: skip
    for name in commands:
        seconds, memory = zip(*(run[name] for run in runs), strict=True)
        figures[name] = median_and_range(seconds) | {"peak_mib": round(statistics.median(memory))}
    ratios = [run["case"][0] / run["imports"][0] for run in runs]
    figures["case_over_imports"] = round(statistics.median(ratios), 2)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
