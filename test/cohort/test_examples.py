"""The examples for clusters, as far as they can be checked where there is none."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from cohorts import require_ray, wait_for
from helpers import REPOSITORY

require_ray()

import ray

from cohort import predict
from process import parse

EXAMPLES = REPOSITORY / "cohort" / "examples"
STUBS = {
    "scontrol": 'echo "one\ntwo"',
    "srun": 'echo "$SRUN_CPUS_PER_TASK" >> "$SLURM_SUBMIT_DIR/cpus"',
}


def commands(text: str) -> list[list[str]]:
    """The arguments of each `python -m cohort.predict` in a text."""
    return [
        shlex.split(found.rstrip('"')) for found in re.findall(r"python -m cohort\.predict ([^\n$@]*)(?:\n|$)", text)
    ]


def test_a_job_of_kubernetes_that_came_to_its_end_has_not_failed(tmp_path: Path) -> None:
    """A slide that could not be read is a row, and no reason to begin again."""
    entrypoint = yaml.safe_load((EXAMPLES / "kuberay.yaml").read_text())["spec"]["entrypoint"]
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    entrypoint = entrypoint.replace("/data", str(tmp_path))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(shlex.split(entrypoint), env=environment, check=False).returncode == 1
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "predictions.csv").touch()
    assert subprocess.run(shlex.split(entrypoint), env=environment, check=False).returncode == 0


def test_slurm_with_ray_that_does_not_begin_ends_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_script(
            "slurm_ray.sh",
            tmp_path,
            *("slides.parquet", "out"),
            SLURM_JOB_NODELIST="one",
            SLURM_NNODES="1",
            SLURM_CPUS_PER_TASK="4",
            TRIES="0",
            PYTHON_FAILS="1",
        )
    assert "Ray does not run on all 1 machines" in failed.value.stderr


def test_every_task_of_a_training_has_its_processors(tmp_path: Path) -> None:
    run_script(
        "../../training/slurm.sh",
        tmp_path,
        *("compact", "data.root=DIR"),
        SLURM_JOB_NODELIST="one,two",
        SLURM_NNODES="2",
        SLURM_JOB_ID="7",
        SLURM_CPUS_PER_TASK="16",
    )
    assert (tmp_path / "cpus").read_text().split() == ["16"]


@pytest.mark.parametrize("name", ["cluster.yaml", "kuberay.yaml"])
def test_commands_are_understood(name: str) -> None:
    found = commands((EXAMPLES / name).read_text())
    assert found
    for arguments in found:
        assert predict.parse(arguments).address == "auto"


def test_the_autoscaling_cluster_is_valid() -> None:
    """By Ray's own schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load((EXAMPLES / "cluster.yaml").read_text()))
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"head", "gpu"}


def test_the_job_of_kubernetes_agrees_with_itself() -> None:
    job = yaml.safe_load((EXAMPLES / "kuberay.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["limits"] == container["resources"]["requests"]
    (workers,) = cluster["workerGroupSpecs"]
    asked = predict.parse(commands((EXAMPLES / "kuberay.yaml").read_text())[0]).gpus
    assert asked == workers["maxReplicas"] * int(
        workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    )


@pytest.mark.parametrize("name", ["cohort/examples/Dockerfile", "cohort/requirements.txt"])
def test_versions_are_those_that_are_tested(name: str) -> None:
    found = re.findall(r"ray\[\w+\]==([\d.]+)", (REPOSITORY / name).read_text())
    assert found == [ray.__version__]


def run_script(name: str, tmp_path: Path, *arguments: str, **environment: str) -> list[list[str]]:
    """Runs an example with stand-ins for SLURM's and its own programs; returns how Python was called."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    own = tmp_path / ".venv" / "bin"
    own.mkdir(parents=True, exist_ok=True)
    log = tmp_path / "log"
    stubs = {programs / key: text for key, text in STUBS.items()}
    stubs |= {
        own / "python": f'printf "%s\\t" "$@" >> {log}; echo >> {log}; exit ${{PYTHON_FAILS:-0}}',
        own / "ray": "exit 0",
    }
    for path, text in stubs.items():
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    subprocess.run(
        ["bash", EXAMPLES / name, *arguments],
        env={"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path), **environment},
        check=True,
        timeout=60,
        stderr=subprocess.PIPE,
        text=True,
    )
    log.touch()
    return [line.strip("\t\n").split("\t") for line in log.read_text().splitlines() if line.strip("\t")]


def test_slurm_with_ray(tmp_path: Path) -> None:
    called = run_script(
        "slurm_ray.sh",
        tmp_path,
        *("slides.parquet", "a folder", "--views", "rot4"),
        SLURM_JOB_NODELIST="one,two",
        SLURM_NNODES="2",
        SLURM_GPUS_ON_NODE="4",
        SLURM_CPUS_PER_TASK="32",
    )
    assert called[-1][:2] == ["-m", "cohort.predict"]
    wait_for(lambda: (tmp_path / "cpus").exists() and (tmp_path / "cpus").read_text().split() == ["32", "32"])
    parsed = predict.parse(called[-1][2:])
    assert (parsed.address, parsed.gpus, parsed.target) == ("one:6379", 8, Path("a folder"))


@pytest.mark.parametrize("mode", ["folder", "slide"])
def test_a_job_array(tmp_path: Path, mode: str) -> None:
    environment = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "64"}
    (called,) = run_script("slurm_array.sh", tmp_path, mode, "in put", "out", "--views", "none", **environment)
    assert called[0] == "process.py"
    parsed = parse(called[1:])
    assert (parsed.shard.number, parsed.shard.count, parsed.resume, parsed.views) == (3, 64, True, "none")
    environment |= {"SLURM_ARRAY_TASK_COUNT": "2", "SHARDS": "64"}
    again = run_script("slurm_array.sh", tmp_path, mode, "in put", "out", "--views", "none", **environment)
    assert again == [called, called]
    (merging,) = re.findall(r'--wrap "\.venv/bin/python process\.py (.*)"', (EXAMPLES / "slurm_array.sh").read_text())
    assert len(parse(shlex.split(merging)).shards) == 1
