"""The machines of a cohort: this one, for as long as the run takes, or a cluster of Ray that is there."""

import contextlib
import logging
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from model.errors import PredictionError, first_line

logger = logging.getLogger(__name__)

LEAST_CPUS = 4
"""Logical processors that this machine declares at least: with fewer, Ray Data's steps wait for each other for ever."""
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""For the C library of a run's processes: one place for the memory of all threads. Ray calls what computes from a
thread, whose own place would give back what is freed whatever `model.speed.memory` says: 11,000 fresh pages a crop."""
PREDICTOR_BYTES = 1 << 30
"""Memory that a predictor takes on the CPU, beside twice its stored weights, which may be stored in half precision."""
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Of a container: microseconds that it may use of each period, and the period's."""
OBJECT_STORE = 1 << 30
"""Bytes of shared memory that crops wait in, on this machine."""


@dataclass(frozen=True)
class Machines:
    """What the run may use, as Ray counts it.

    Attributes:
        predictors: how many, one an actor.
        gpus: of each predictor, 1 or 0.
        readers: tasks that read at once; None for as many as there is room for.
        reader_cpus: logical processors that each of them takes.
        threads: of a predictor; 0 for one with a GPU.
    """

    predictors: int
    gpus: int
    readers: int | None
    reader_cpus: float
    threads: int


@contextlib.contextmanager
def connected(address: str | None, gpus: int | None, weights_bytes: int = 0) -> Iterator[Machines]:
    """Connects to a cluster, or begins one on this machine that ends with this process, however that ends.

    Args:
        address: of a cluster; None for this machine.
        gpus: predictors with a GPU; None for as many as there are now, 0 for none.
        weights_bytes: of the stored weights.

    Raises:
        PredictionError: there is no such cluster, or this machine has fewer GPUs.
    """
    _be_quiet()
    with contextlib.ExitStack() as closing:
        try:
            if address is None:
                closing.enter_context(_own_cluster())
            else:
                _knock(address)
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": ONE_ARENA},
                )
                closing.callback(ray.shutdown)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"the cluster at {address}" if address else "Ray on this machine"
            raise PredictionError(
                f"There is no way to {where} ({first_line(error)}); start it, or leave out --address."
            ) from error
        machines = _count(gpus)
        if address is None and not machines.gpus:
            machines = _share_out_cores(machines, weights_bytes)
        elif address is None and machines.predictors > _total("GPU"):
            raise PredictionError(
                f"{gpus} GPUs were asked for, but Ray sees {_total('GPU'):g}; say --gpus {_total('GPU'):g}."
            )
        yield machines


def _be_quiet() -> None:
    """Leaves what Ray says of its own workings to its log files: the last line on stderr is for the user."""

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers


def _knock(address: str) -> None:
    """Tries an address that is a host and a port: where nothing listens, Ray would try for minutes.

    Raises:
        OSError: nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


@contextlib.contextmanager
def _own_cluster() -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="cohort-", dir="/tmp")  # sockets lie in it, whose paths must be short
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "cohort.watchdog", folder],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        os.environ["COHORT_FOLDER"] = folder  # by which the watchdog knows what was started from here
        os.environ.setdefault("RAY_worker_niceness", "0")  # as folder mode has it, beside whatever else runs here
        for name, value in ONE_ARENA.items():
            os.environ.setdefault(name, value)  # which its processes inherit
        ray.init(
            address="local",
            num_cpus=max(LEAST_CPUS, _cores()),
            object_store_memory=OBJECT_STORE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        yield
    finally:
        ray.shutdown()
        os.environ.pop("COHORT_FOLDER", None)
        assert watchdog.stdin is not None
        watchdog.stdin.close()
        watchdog.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _total(resource: str) -> float:
    return float(ray.cluster_resources().get(resource, 0))


def _count(gpus: int | None) -> Machines:
    """Shares out what there is: a predictor for each GPU, or, without, one for each machine."""
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    cpus = [count for count in nodes if count] or [float(LEAST_CPUS)]
    least = min(cpus)
    reader_cpus = min(1.0, least / LEAST_CPUS)
    predictors = int(_total("GPU")) if gpus is None else gpus
    if predictors:
        return Machines(predictors, 1, None, reader_cpus, 0)
    return Machines(len(cpus), 0, max(1, int(sum(cpus) / reader_cpus / 2)), reader_cpus, math.ceil(least))


def _share_out_cores(machines: Machines, weights_bytes: int) -> Machines:
    """One predictor for each processor, or for several where the memory does not hold so many.

    One for all of them would have to wait, after every layer, for the processor that something else has just used.
    """
    cores = _cores()
    room = int(_total("memory") // (PREDICTOR_BYTES + 2 * weights_bytes))
    threads = math.ceil(cores / max(1, min(cores, room)))
    return replace(machines, predictors=cores // threads, threads=threads)


def _cores() -> int:
    """Processors that this process may use, as far as a container's quota goes."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        cores = min(cores, max(1, math.ceil(int(quota) / int(period))))  # "max" is no number: there is no quota
    return cores
