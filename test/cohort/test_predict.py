"""Cohorts on Ray: what comes out, and what may happen meanwhile."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from cohorts import begin, require_ray, rows_of, run, running, wait_for, write_images, write_slides

require_ray()

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from cohort import run as run_module
from cohort.inputs import read_inputs
from cohort.machines import Machines
from cohort.parts import Parts
from cohort.rows import RESULTS
from cohort.run import PREDICTOR_CPUS, CohortOptions, classify_cohort
from model.errors import CaseError, PredictionError
from model.modes.folder import classify_folder
from model.modes.slide import classify_slide
from model.modes.slide_list import read_slide_list
from model.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(small_weights: Path) -> Predictor:
    return Predictor(small_weights, "cpu", "none")


@pytest.fixture
def options(small_weights: Path) -> CohortOptions:
    return CohortOptions(small_weights, "none")


def check_same(found: list[dict[str, str]], expected: list[dict[str, str]], names: list[str]) -> None:
    """Row for row: names and classes are equal, confidences to 1e-6."""
    assert len(found) == len(expected) > 0
    for name in names:
        assert [row[name] for row in found] == [row[name] for row in expected]
    values = [[float(row["confidence"]) for row in rows] for rows in (found, expected)]
    np.testing.assert_allclose(*values, rtol=0, atol=1e-6)
    assert len(set(values[0])) >= min(5, len(values[0]))


def test_a_folder_gives_what_folder_mode_gives(
    tmp_path: Path, crops: list[np.ndarray], predictor: Predictor, options: CohortOptions, machines: Machines
) -> None:
    """Also of stacks, and of a name that is no UTF-8; a bad file is a row; Parquet and CSV say the same."""
    source = write_images(tmp_path / "in", crops, 150)
    tifffile.imwrite(source / "=stack.tif", np.stack(crops), photometric="rgb")
    (source / "broken.png").write_bytes(b"no image")
    shutil.copy(source / "000" / "00000.png", os.fsencode(source) + b"/\xff.png")
    classify_folder(predictor, source, tmp_path / "folder")
    done = classify_cohort(read_inputs(source), tmp_path / "out", machines, options)
    assert (done.units, done.crops, done.failures) == (153, 156, 1)
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    answered = [row for row in rows if row["class"]]
    check_same(answered, rows_of(tmp_path / "folder" / "predictions.csv"), ["file", "index", "class"])
    failed = [row for row in rows if row["failure"]]
    expected = rows_of(tmp_path / "folder" / "failures.csv")
    assert [(row["file"], row["failure"]) for row in failed] == [(row["file"], row["reason"]) for row in expected]
    assert failed[0]["index"] == failed[0]["confidence"] == "" and len(rows) == 157
    table = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert [row["confidence"] for row in table] == [float(row["confidence"]) if row["class"] else None for row in rows]
    names = [row["file"].encode(errors="backslashreplace").decode().removeprefix("'") for row in rows]
    assert [row["file"] for row in table] == names and "=stack.tif" in names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "parts",
        "predictions.csv",
        "predictions.parquet",
        "run.json",
    ]


def test_slides_give_what_slide_mode_gives(
    tmp_path: Path, crops: list[np.ndarray], predictor: Predictor, options: CohortOptions, machines: Machines
) -> None:
    """Every detection has one row: classified or left out; a slide that cannot be read has one, too."""
    table = write_slides(tmp_path / "in", crops, 4)
    table.write_text(table.read_text() + "missing.tif,0.geojson\n")
    done = classify_cohort(read_inputs(table), tmp_path / "out", machines, options)
    assert (done.units, done.crops, done.failures) == (5, 40, 1)
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert len(rows) == 4 * 12 + 1
    for number, task in enumerate(read_slide_list(table, tmp_path / "slides")[:4]):
        (tmp_path / "slides").mkdir(exist_ok=True)
        classify_slide(predictor, task)
        own = rows[12 * number : 12 * (number + 1)]
        assert {row["slide"] for row in own} == {str(task.slide)}
        assert [row["index"] for row in own] == [str(index) for index in range(12)]
        alike = ["id", "x", "y", "class", "view_spread", "outside_slide", "remark"]
        check_same([row for row in own if row["class"]], rows_of(task.target / "predictions.csv"), alike)
        assert own[10]["left_out"] == "duplicate: within 5 µm of detection 0"
        assert own[11]["left_out"].startswith("outside the slide: -9, 9 of ")
    assert "missing.tif cannot be opened" in rows[-1]["failure"] and rows[-1]["index"] == ""


def test_a_parquet_gives_what_its_folder_or_table_gives(
    tmp_path: Path, crops: list[np.ndarray], options: CohortOptions, machines: Machines
) -> None:
    source = write_images(tmp_path / "crops", crops, 12)
    classify_cohort(read_inputs(source), tmp_path / "whole", machines, options)
    names = [row["file"] for row in rows_of(tmp_path / "whole" / "predictions.csv")]
    pq.write_table(pa.table({"file": [f"crops/{name}" for name in names]}), tmp_path / "crops.parquet")
    classify_cohort(read_inputs(tmp_path / "crops.parquet"), tmp_path / "out", machines, options)
    found, expected = (rows_of(tmp_path / name / "predictions.csv") for name in ("out", "whole"))
    check_same(found, expected, ["index", "class"])
    assert [row["file"] for row in found] == [f"crops/{name}" for name in names]

    table = write_slides(tmp_path / "slides", crops, 2)
    columns = {"slide": ["0.tif", "1.tif"], "detections": ["0.geojson", "1.geojson"], "mpp": [None, 0.25]}
    pq.write_table(pa.table(columns), table.with_suffix(".parquet"))
    for path in (table, table.with_suffix(".parquet")):
        classify_cohort(read_inputs(path), tmp_path / path.suffix, machines, options)
    alike = ["slide", "detections", "index", "id", "left_out"]
    found, expected = (rows_of(tmp_path / suffix / "predictions.csv") for suffix in (".parquet", ".csv"))
    for name in alike:
        assert [row[name] for row in found] == [row[name] for row in expected]


def test_only_what_is_new_changed_or_failed_is_done_again(
    tmp_path: Path, crops: list[np.ndarray], options: CohortOptions, machines: Machines
) -> None:
    source = write_images(tmp_path / "in", crops, 20)
    (source / "broken.png").write_bytes(b"no image")
    assert classify_cohort(read_inputs(source), tmp_path / "out", machines, options).failures == 1
    before = {row["file"]: row for row in rows_of(tmp_path / "out" / "predictions.csv")}
    parts = set((tmp_path / "out" / "parts").iterdir())
    cv2.imwrite(str(source / "broken.png"), crops[0])
    cv2.imwrite(str(source / "000" / "00001.png"), crops[4])
    (source / "000" / "00002.png").unlink()
    cv2.imwrite(str(source / "new.png"), crops[1])
    assert classify_cohort(read_inputs(source), tmp_path / "out", machines, options).failures == 0
    rows = {row["file"]: row for row in rows_of(tmp_path / "out" / "predictions.csv")}
    assert rows.keys() ^ before.keys() == {"000/00002.png", "new.png"}
    changed = {name for name in rows.keys() & before.keys() if rows[name] != before[name]}
    assert changed == {"broken.png", "000/00001.png"}
    new = set((tmp_path / "out" / "parts").iterdir()) - parts
    assert sum(pq.read_metadata(path).num_rows for path in new) == 3


def test_other_weights_or_settings_are_refused(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path, options: CohortOptions, machines: Machines
) -> None:
    """In one sentence, before anything of what is there is touched."""
    source = write_images(tmp_path / "in", crops, 3)
    classify_cohort(read_inputs(source), tmp_path / "out", machines, options)
    before = (tmp_path / "out" / "predictions.csv").read_bytes()
    shutil.copytree(small_weights, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["calibration"]["bias"] += 0.5
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    for other, what in [
        (replace(options, weights=tmp_path / "other"), "another weights"),
        (replace(options, view_set="rot4"), "another views"),
        (replace(options, mpp=0.5), "another mpp"),
    ]:
        with pytest.raises(CaseError, match=f"out holds a run with {what}; give another folder"):
            classify_cohort(read_inputs(source), tmp_path / "out", machines, other)
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == before


def test_weights_that_another_machine_has_not_are_said_in_one_sentence(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path, options: CohortOptions, machines: Machines
) -> None:
    """As the actors see the folder, not the process that begins."""
    source = write_images(tmp_path / "in", crops, 3)
    shutil.copytree(small_weights, tmp_path / "weights")
    (tmp_path / "weights" / "model.safetensors").unlink()
    with pytest.raises(PredictionError, match=r"model\.safetensors"):
        classify_cohort(read_inputs(source), tmp_path / "out", machines, replace(options, weights=tmp_path / "weights"))
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_blocks_are_small_and_what_they_hold_is_kept_soon(
    tmp_path: Path,
    crops: list[np.ndarray],
    options: CohortOptions,
    machines: Machines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a run of 200 crops, far below Ray's own 128 MB, results come in many pieces, each of which is kept."""
    monkeypatch.setattr("cohort.parts.ROWS_A_PART", 1)
    source = write_images(tmp_path / "in", crops, 200)
    classify_cohort(read_inputs(source), tmp_path / "out", machines, options)
    sizes = [pq.read_metadata(path).num_rows for path in (tmp_path / "out" / "parts").iterdir()]
    assert sum(sizes) == 200 and max(sizes) <= 128


def test_enough_logical_processors_are_declared(machines: Machines) -> None:
    """On two processors, too: a predictor and readers beside it have room."""
    assert ray.cluster_resources()["CPU"] >= 4
    assert machines.readers is not None and machines.readers * machines.reader_cpus <= 2
    assert 4 * PREDICTOR_CPUS + machines.readers * machines.reader_cpus <= ray.cluster_resources()["CPU"]


def parts_of(out: Path) -> list[Path]:
    return sorted((out / "parts").glob("*.parquet"))


def test_killed_in_the_middle_the_same_command_completes(
    tmp_path: Path, crops: list[np.ndarray], small_weights: Path
) -> None:
    """SIGKILL of the driver; Ray's processes go, too; every row is there once and nothing done is done again."""
    source = write_images(tmp_path / "in", crops, 3000)
    command = (source, tmp_path / "out", "--weights", small_weights, "--views", "d4")
    process = begin(*command)
    wait_for(lambda: len(parts_of(tmp_path / "out")) >= 3)
    folder = next(
        path for path in Path("/tmp").glob("cohort-*") if str(process.pid) in str(list(path.glob("session_*")))
    )
    assert running(str(folder))
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not running(str(folder)), 40)
    wait_for(lambda: not folder.exists(), 10)
    kept = {path: path.stat().st_mtime_ns for path in parts_of(tmp_path / "out")}
    done = sum(pq.read_metadata(path).num_rows for path in kept)
    assert 0 < done < 3000 and not (tmp_path / "out" / "predictions.csv").exists()
    said = run(*command)
    assert f"{done} of 3000 images are done already." in said
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in parts_of(tmp_path / "out")}.items()
    assert sum(pq.read_metadata(path).num_rows for path in parts_of(tmp_path / "out")) == 3000
    classify_folder(Predictor(small_weights, "cpu", "d4"), source, tmp_path / "folder")
    found, expected = (rows_of(tmp_path / name / "predictions.csv") for name in ("out", "folder"))
    check_same(found, expected, ["file", "index", "class"])


def test_of_two_machines_one_may_be_lost(tmp_path: Path, crops: list[np.ndarray], small_weights: Path) -> None:
    """Two raylets, one of which is killed with all that it runs: nothing is lost, and nothing is there twice."""
    from ray.cluster_utils import Cluster

    source = write_images(tmp_path / "in", crops, 3000)
    size = {"num_cpus": 4, "object_store_memory": 200 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **size})
    try:
        other = cluster.add_node(**size)
        process = begin(
            *(source, tmp_path / "out", "--weights", small_weights), "--address", cluster.address, "--views", "d4"
        )
        wait_for(lambda: len(parts_of(tmp_path / "out")) >= 3)
        cluster.remove_node(other, allow_graceful=False)
        assert not (tmp_path / "out" / "predictions.csv").exists()
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0 and "Traceback" not in said, said
        assert "3000 images, 2 predictors." in said
    finally:
        cluster.shutdown()
    classify_folder(Predictor(small_weights, "cpu", "d4"), source, tmp_path / "folder")
    found, expected = (rows_of(tmp_path / name / "predictions.csv") for name in ("out", "folder"))
    check_same(found, expected, ["file", "index", "class"])


def test_standing_still_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a machine's GPU does not come back, Ray waits in silence."""
    monkeypatch.setattr(run_module, "SECONDS_STALLED", 0.05)
    with run_module._Report([], Parts(tmp_path), False) as report:
        wait_for(lambda: "Nothing was done for 0 minutes; if a machine is gone, run this again." in caplog.text, 10)
        report.update(1)


def test_what_fails_without_end_ends(
    tmp_path: Path, crops: list[np.ndarray], options: CohortOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass without results is tried again; three in a row are a sentence, and what came before is kept."""
    source = write_images(tmp_path / "in", crops, 4)
    inputs = read_inputs(source)
    asked: list[int] = []

    def results(self: object, units: list) -> Iterator[pa.Table]:
        asked.append(len(units))
        if len(asked) == 1:
            row = {"key": units[0].key, "rows": 1, "index": 0, "class": "normal", "confidence": 0.25}
            yield pa.Table.from_pylist([row], RESULTS)
        raise ray.exceptions.NodeDiedError("gone")

    monkeypatch.setattr(run_module._Steps, "results", results)
    with pytest.raises(PredictionError, match=r"failed 3 times in a row \(.*gone.*\)"):
        classify_cohort(inputs, tmp_path / "out", Machines(1, 0, 1, 1.0, 1), options)
    assert asked == [4, 3, 3, 3] and not (tmp_path / "out" / "predictions.csv").exists()
    with Parts(tmp_path / "out") as parts:
        parts.start(json.loads((tmp_path / "out" / "run.json").read_text()))
        assert [parts.done(unit.key) for unit in inputs.units] == [True, False, False, False]


def test_the_command_line(tmp_path: Path, crops: list[np.ndarray], small_weights: Path) -> None:
    """What is wrong is one sentence, and says so before Ray is begun."""
    source = write_images(tmp_path / "in", crops, 2)
    weights = ("--weights", small_weights)
    for arguments, what in [
        ((tmp_path / "nothing.csv", tmp_path / "out", *weights), "nothing.csv cannot be read"),
        ((source, tmp_path / "out", "--weights", tmp_path), "is no weights folder"),
        ((source, tmp_path / "out", *weights, "--only", "a"), "holds crops, so it has no detections"),
        (
            (source, tmp_path / "out", *weights, "--address", "127.0.0.1:9"),
            "There is no way to the cluster at 127.0.0.1:9",
        ),
    ]:
        assert what in run(*arguments, rc=1).splitlines()[-1]
    assert not (tmp_path / "out").exists()
    said = run(source, tmp_path / "out", *weights)
    assert said.splitlines()[-1] == f"2 images, 2 crops; wrote {tmp_path / 'out'}"
    assert "Warning" not in said and "site-packages" not in said
