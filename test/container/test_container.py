"""The images as the platform runs them: no network, read-only root, some user, little memory, in both API modes.

Needs built images, named by CONTAINER_IMAGE (exec) and CONTAINER_IMAGE_INVOKE (invoke), and an engine, named by
CONTAINER_ENGINE (docker when not set).
"""

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import DEFAULT_WEIGHTS, REPOSITORY, balanced_accuracy, check_result, shared, write_case
from pages import check_page
from written_slides import paste, point, write_geojson, write_svs

from model.images.read import read_crops
from model.modes.grand_challenge import RESULT_FILE, find_stack

IMAGE = os.environ.get("CONTAINER_IMAGE")
INVOKE_IMAGE = os.environ.get("CONTAINER_IMAGE_INVOKE")
ENGINE = os.environ.get("CONTAINER_ENGINE", "docker")
RESTRICTIONS = (
    "--network",
    "none",
    "--read-only",
    "--tmpfs",
    "/tmp",
    "--user",
    "1234:1234",
    "--memory",
    "8g",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
)

pytestmark = pytest.mark.skipif(
    IMAGE is None or INVOKE_IMAGE is None,
    reason="needs built images: set CONTAINER_IMAGE and CONTAINER_IMAGE_INVOKE (and CONTAINER_ENGINE)",
)


def engine(*arguments: object, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess:
    command = [ENGINE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=check)


def run(case: Path, output: Path, *options: object, image: str | None = IMAGE, rc: int = 0) -> str:
    """Runs a case in the image under the platform's restrictions; returns its stderr."""
    output.mkdir(exist_ok=True)
    output.chmod(0o777)
    mounts = ("--volume", f"{case.resolve()}:/input:ro", "--volume", f"{output}:/output")
    done = engine("run", "--rm", *RESTRICTIONS, *mounts, *options, image, check=False)
    assert done.returncode == rc, done.stderr
    return done.stderr


class InvokeServer:
    """The invoke image, running, with the folders it sees."""

    def __init__(self, folder: Path) -> None:
        self.mount, self.output = folder / "mount", folder / "output"
        for path in (self.mount, self.output):
            path.mkdir()
            path.chmod(0o777)
        self.name = f"invoke-{uuid.uuid4().hex[:8]}"
        engine(
            "run",
            "--detach",
            "--name",
            self.name,
            *RESTRICTIONS,
            "--volume",
            f"{self.mount}:/cases:ro",
            "--volume",
            f"{self.output}:/output",
            INVOKE_IMAGE,
            "serve",
            "--input",
            "/cases/now",
        )

    def request(self, method: str, path: str) -> int:
        """The status that the server answers inside the container's own network, as the platform's process sees it."""
        code = (
            "import http.client as h; c = h.HTTPConnection('127.0.0.1', 4743, timeout=60); "
            f"c.request('{method}', '{path}'); print(c.getresponse().status)"
        )
        done = engine("exec", self.name, "python", "-c", code, check=False)
        return int(done.stdout) if done.returncode == 0 else 0

    def wait(self) -> None:
        end = time.monotonic() + 120
        while self.request("GET", "/health") != 200:
            assert time.monotonic() < end, engine("logs", self.name).stderr

    def invoke(self, case: Path) -> int:
        shutil.rmtree(self.mount / "now", ignore_errors=True)
        shutil.copytree(case, self.mount / "now")
        return self.request("POST", "/invoke")


@pytest.fixture
def invoke_server(tmp_path: Path) -> Iterator[InvokeServer]:
    server = InvokeServer(tmp_path)
    yield server
    engine("rm", "--force", server.name, check=False)


def test_labels_tell_the_api() -> None:
    """And what the platform starts, which gives no arguments: a case, or the server."""
    for built, api, command in ((IMAGE, "exec", None), (INVOKE_IMAGE, "invoke", ["serve"])):
        for image in (built, f"{built}-slim"):
            (description,) = json.loads(engine("image", "inspect", image).stdout)
            assert description["Config"]["Labels"]["org.grand-challenge.api-method"] == api
            assert (description["Config"].get("Cmd") or None) == command


def test_the_example_case(tmp_path: Path) -> None:
    run(REPOSITORY / "test" / "input", tmp_path / "out")
    check_result(tmp_path / "out", 8)


def test_the_shared_cases_give_the_same_in_both_modes(tmp_path: Path, invoke_server: InvokeServer) -> None:
    cases = shared("cases")
    truth = json.loads((cases / "ground_truth.json").read_text())
    assert len(truth) == 6
    found = []
    invoke_server.wait()
    for case in truth:
        run(cases / case["case"], tmp_path / case["case"])
        entries = check_result(tmp_path / case["case"], len(case["labels"]))
        found.extend(zip(case["labels"], entries, strict=True))
        assert invoke_server.invoke(cases / case["case"]) == 201
        check_result(invoke_server.output, len(case["labels"]))
        assert (invoke_server.output / RESULT_FILE).read_bytes() == (tmp_path / case["case"] / RESULT_FILE).read_bytes()
    assert balanced_accuracy(found) >= 0.85
    start = time.monotonic()
    engine("stop", "--time", "5", invoke_server.name)
    assert time.monotonic() - start < 5
    (state,) = json.loads(engine("inspect", invoke_server.name).stdout)
    assert state["State"]["ExitCode"] == 0


def test_shuffling_a_stack_shuffles_the_confidences(tmp_path: Path) -> None:
    crops = read_crops(find_stack(shared("cases") / "case_02"))
    order = np.random.default_rng(0).permutation(len(crops))
    write_case(tmp_path / "a", crops)
    write_case(tmp_path / "b", [crops[i] for i in order], "interface", ".mha")
    confidences = []
    for name in ("a", "b"):
        run(tmp_path / name, tmp_path / f"{name}_out")
        confidences.append([entry["confidence"] for entry in check_result(tmp_path / f"{name}_out", len(crops))])
    np.testing.assert_allclose(confidences[1], np.array(confidences[0])[order], atol=1e-5)


def test_a_bad_case_is_one_last_line_and_the_server_goes_on(
    tmp_path: Path, crops: list[np.ndarray], invoke_server: InvokeServer
) -> None:
    stack = write_case(tmp_path / "case", crops)
    write_case(tmp_path / "good", crops)
    stack.write_bytes(stack.read_bytes()[:5000])
    errors = run(tmp_path / "case", tmp_path / "out", rc=1)
    assert "stack.tiff" in errors.strip().splitlines()[-1]
    assert list((tmp_path / "out").iterdir()) == []
    invoke_server.wait()
    assert invoke_server.invoke(tmp_path / "case") == 422
    assert invoke_server.invoke(tmp_path / "good") == 201


def test_output_that_is_read_only_missing_or_full(tmp_path: Path, crops: list[np.ndarray]) -> None:
    write_case(tmp_path / "case", crops * 60)
    mount = ("run", "--rm", *RESTRICTIONS, "--volume", f"{tmp_path / 'case'}:/input:ro")
    (tmp_path / "out").mkdir(mode=0o555)
    full = ("--mount", "type=tmpfs,destination=/output,tmpfs-size=4k,tmpfs-mode=1777")
    for options, word in (
        (("--volume", f"{tmp_path / 'out'}:/output"), "Permission denied"),
        (("--volume", f"{tmp_path / 'out'}:/output:ro"), "Read-only file system"),
        ((), "Read-only file system"),
        (full, "No space left"),
    ):
        done = engine(*mount, *options, IMAGE, "--views", "none", check=False)
        assert done.returncode == 1 and word in done.stderr.strip().splitlines()[-1], done.stderr
        assert list((tmp_path / "out").iterdir()) == []


def test_unreadable_input(tmp_path: Path, crops: list[np.ndarray]) -> None:
    write_case(tmp_path / "case", crops).chmod(0)
    assert "Permission denied" in run(tmp_path / "case", tmp_path / "out", rc=1).strip().splitlines()[-1]


def test_weights_that_were_uploaded_are_used(tmp_path: Path, small_weights: Path) -> None:
    case = REPOSITORY / "test" / "input"
    slim = f"{IMAGE}-slim"
    assert "There are no weights" in run(case, tmp_path / "none", image=slim, rc=1).strip().splitlines()[-1]
    model = tmp_path / "model"
    shutil.copytree(DEFAULT_WEIGHTS, model)
    log = run(case, tmp_path / "slim", "--volume", f"{model}:/opt/ml/model:ro", image=slim)
    assert "Weights: /opt/ml/model" in log
    run(case, tmp_path / "baked")
    assert (tmp_path / "slim" / RESULT_FILE).read_bytes() == (tmp_path / "baked" / RESULT_FILE).read_bytes()
    log = run(case, tmp_path / "small", "--volume", f"{small_weights}:/opt/ml/model:ro")
    assert "weights small" in log
    (model / "config.json").unlink()
    last = run(case, tmp_path / "half", "--volume", f"{model}:/opt/ml/model:ro", rc=1).strip().splitlines()[-1]
    assert "no config.json" in last and list((tmp_path / "half").iterdir()) == []


def test_folder_mode(tmp_path: Path, crops: list[np.ndarray]) -> None:
    write_case(tmp_path / "in", crops)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    mounts = ("--volume", f"{tmp_path / 'in'}:/in:ro", "--volume", f"{tmp_path / 'out'}:/out")
    engine("run", "--rm", *RESTRICTIONS, *mounts, IMAGE, "folder", "/in", "/out", "--report")
    assert f"{len(crops)} crops of /in" in check_page(tmp_path / "out" / "report.html").text
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == len(crops)


def test_slide_mode(tmp_path: Path, crops: list[np.ndarray]) -> None:
    """OpenSlide's library is in the image, and its processes run under the same restrictions."""
    image, centres = paste(crops)
    (tmp_path / "in").mkdir()
    write_svs(tmp_path / "in" / "slide.svs", image)
    write_geojson(tmp_path / "in" / "figures.geojson", [point(x, y) for x, y in centres])
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    mounts = ("--volume", f"{tmp_path / 'in'}:/in:ro", "--volume", f"{tmp_path / 'out'}:/out")
    where = ("/in/slide.svs", "/in/figures.geojson", "/out", "--save-crops", "--views", "none", "--report")
    engine("run", "--rm", *RESTRICTIONS, *mounts, IMAGE, "slide", *where)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["format"] == "aperio" and summary["statistics"]["figures"] == len(crops)
    assert len(list((tmp_path / "out" / "crops").iterdir())) == len(crops)
    assert f"{len(crops)} mitotic figures on" in check_page(tmp_path / "out" / "report.html").text


def test_nothing_of_the_build_or_of_training_is_in_the_image() -> None:
    left_over = r"\( -path '/opt/*/training' -o -name pip.conf -size +0 -o -path /root/.cache/pip \)"
    search = f"ls /opt/app; find / -xdev {left_over}"
    done = engine("run", "--rm", "--network", "none", "--user", "0:0", "--entrypoint", "/bin/sh", IMAGE, "-c", search)
    assert [line for line in done.stdout.split() if line != "__pycache__"] == [
        "model",
        "process.py",
        "requirements.lock",
    ]


def test_nothing_that_installs_packages_is_left() -> None:
    code = "import importlib.util as u; print([name for name in ('pip', 'setuptools', 'wheel') if u.find_spec(name)])"
    done = engine("run", "--rm", *RESTRICTIONS, "--entrypoint", "/opt/venv/bin/python", IMAGE, "-c", code)
    assert done.stdout.strip() == "[]"
