import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import DEFAULT_WEIGHTS, REPOSITORY
from pages import check_page
from PIL import Image

from model.images.read import read_crops
from model.modes.folder import classify_folder
from model.modes.grand_challenge import result
from model.predictor import Predictor
from training.data.sample import Sample
from training.evaluate import main
from training.evaluation.calibration import cross_calibrate
from training.evaluation.held_out import read_predictions, table_path, write_predictions
from training.evaluation.scores import report_table

pytestmark = pytest.mark.usefixtures("few_resamples", "one_thread")


def test_command_line_reports_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    with (tmp_path / "held_out.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "domain", "group", "fold", "logit", "shifted_logit"])
        for i in range(200):
            atypical = i % 4 == 0
            label = "atypical" if atypical else "normal"
            logits = [random.normal(atypical), random.normal(atypical)]
            writer.writerow([f"{i}.png", label, "x", f"s{i // 5}", i // 5 % 4, *logits])
    main([str(tmp_path / "held_out.csv")])
    report = json.loads(capsys.readouterr().out)
    assert report["crops"] == 200
    main([str(tmp_path / "held_out.csv"), "--output", str(tmp_path / "out")])
    assert json.loads(capsys.readouterr().out) == report == json.loads((tmp_path / "out" / "metrics.json").read_text())
    page = check_page(tmp_path / "out" / "report.html")
    assert f"{report['overall']['roc_auc']['value']:.3f} (" in page.text and "Worst errors" in page.text
    for name, entry in report["domains"].items():
        low, high = entry["interval_95"]["roc_auc"]
        assert f"{name} {entry['crops']} " in page.text
        assert f"{entry['roc_auc']:.3f} ({low:.2f} to {high:.2f})" in page.text
    assert report["overall"].keys() == report["shifted"].keys() and report["overall"] != report["shifted"]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for name, sentence in (("nowhere.csv", "There is no table .*nowhere"), ("other.csv", "has no rows with a column")):
        with pytest.raises(SystemExit, match=sentence):
            main([str(tmp_path / name)])


def write_run(folder: Path, *, shift_split: str = "sources", seed: int = 7) -> tuple[Path, Path]:
    """A run's config.yaml and its two tables, of the same crops, whose logits lie apart."""
    random = np.random.default_rng(0)
    samples = [Sample(Path(f"{i}.png"), int(i % 4 == 0), "x", f"s{i // 5}") for i in range(200)]
    tables = table_path(folder, "slides"), table_path(folder, "sources")
    for table, offset, folds in zip(tables, (0, 2), (4, 2), strict=True):
        logits = random.normal(2 * (np.arange(200) % 4 == 0) - offset, size=(2, 200)).T
        write_predictions(table, samples, np.arange(200) // 5 % folds, logits)
    data = {"split": "slides", "shift_split": shift_split}
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "data": data}))
    return tables


def evaluated(table: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[dict, str]:
    main([str(table), *options])
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err


def test_a_table_of_a_run_gives_the_figures_of_its_model_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slides, sources = write_run(tmp_path)
    metrics, said = evaluated(slides, capsys)
    card = report_table(slides, 7, sources) | {"held_out_sources": report_table(sources, 7)}
    assert metrics == card and said == ""
    assert metrics["overall"] != report_table(slides, 7)["overall"]
    assert evaluated(slides, capsys, "--output", str(tmp_path / "out"))[0] == card
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == card
    page = check_page(tmp_path / "out" / "report.html")
    assert f"{card['overall']['balanced_accuracy']['value']:.3f} (" in page.text and "To be said" not in page.text
    held_out = read_predictions(slides)
    called = cross_calibrate(held_out, further=read_predictions(sources).logits) >= 0.5
    counts = [int(((held_out.labels == label) & (called == call)).sum()) for label in (1, 0) for call in (1, 0)]
    assert "atypical {} {} normal {} {}".format(*counts) in page.text
    assert evaluated(sources, capsys) == (card["held_out_sources"], "")


def test_where_the_tables_of_the_card_cannot_be_told_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slides, sources = write_run(tmp_path)
    alone = "The operating point is from .*held_out_slides\\.csv alone, so the figures may differ from the model card's"
    sources.unlink()
    metrics, said = evaluated(slides, capsys, "--output", str(tmp_path / "out"))
    assert re.match(f"{alone}: held_out_sources\\.csv, which .* is not beside it\\.\n", said)
    assert metrics == report_table(slides, 7) and "is not beside it." in check_page(tmp_path / "out/report.html").text
    (tmp_path / "config.yaml").write_text("seed: 7\ndata: {split: domains, shift_split: ''}")
    said = evaluated(slides, capsys)[1]
    assert re.match(f"{alone}: .*config\\.yaml is of a run with domains as data\\.split\\.$", said)
    for content in ("seed: 7\ndata: {split: slides}", "[", "[1]", "seed: x\ndata: {split: slides, shift_split: ''}"):
        (tmp_path / "config.yaml").write_text(content)
        assert re.match(f"{alone}: beside it is no config\\.yaml of its run", evaluated(slides, capsys)[1]), content
    (tmp_path / "config.yaml").unlink()
    metrics, said = evaluated(slides, capsys)
    assert re.match(f"{alone}: beside it is no", said) and metrics == report_table(slides)
    write_run(tmp_path, shift_split="")
    assert evaluated(slides, capsys) == (report_table(slides, 7), "")


def test_a_weights_folder_on_a_manifest_gives_what_the_container_gives(
    data: Path, small_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(small_weights), f"data.root={data}", "--output", str(tmp_path / "out"), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"small 0 ({small_weights}) on {data}, 8 views")
    assert "all crops" in printed and "domain " in printed and "source MIDOG21" in printed
    assert "cannot be told from the folder" in printed
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    crops = [read_crops(data / f"{i}.png")[0] for i in range(96)]
    expected = result(Predictor(small_weights, "cpu")(crops))
    assert [(row["class"], float(row["confidence"])) for row in rows] == [
        (entry["class"], pytest.approx(entry["confidence"], abs=2e-6)) for entry in expected
    ]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    labels = np.array([row["label"] == "atypical" for row in rows])
    called = np.array([row["class"] == "atypical" for row in rows])
    assert metrics["overall"]["crops"] == 96 and metrics["overall"]["slides"] == 8
    assert metrics["overall"]["sensitivity"]["value"] == pytest.approx(called[labels].mean(), abs=1e-4)
    assert metrics["overall"]["specificity"]["value"] == pytest.approx(1 - called[~labels].mean(), abs=1e-4)
    assert sum(entry["crops"] for entry in metrics["domains"].values()) == 96
    assert metrics["sources"].keys() == {"MIDOG21"} and metrics["views"] == "d4"
    assert not list((tmp_path / "out").glob(".*"))
    page = check_page(tmp_path / "out" / "report.html")
    wrong = int((called != labels).sum())
    assert f"24 of {wrong} crops called wrong." in page.text
    assert sum(tag == "img" for tag, _ in page.elements) == 4 + 24  # figures, worst errors; no votes of the experts


def test_fewer_views_and_unseen_crops_are_said(
    data: Path, small_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(small_weights), f"data.root={data}", "--output", str(tmp_path), "--views", "none", "--unseen"]
    main(arguments)
    assert "cannot be told from the folder" not in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["views"] == "none" and metrics["unseen"] == "said to be"


def test_crops_of_another_resolution_are_rescaled_as_the_container_does(
    data: Path, small_weights: Path, tmp_path: Path
) -> None:
    manifest = (data / "manifest.csv").read_text().splitlines()[:5]
    for i in range(4):
        with Image.open(data / f"{i}.png") as image:
            dots = 10000 / 0.5 * 2.54  # an inch of 0.5 µm pixels
            image.resize((96, 96)).save(tmp_path / f"{i}.png", dpi=(dots, dots))
    (tmp_path / "manifest.csv").write_text("\n".join(manifest))
    main([str(small_weights), f"data.root={tmp_path}", "--output", str(tmp_path / "out")])
    classify_folder(Predictor(small_weights, "cpu"), tmp_path, tmp_path / "folder")
    tables = []
    for folder in ("out", "folder"):
        with (tmp_path / folder / "predictions.csv").open(newline="") as file:
            rows = csv.DictReader(file)
            tables.append({Path(row["file"]).name: float(row["confidence"]) for row in rows})
    assert tables[0] == pytest.approx(tables[1], abs=2e-6) and len(tables[0]) == 4


def test_the_mode_for_folders_can_be_scored_against_a_manifest(
    data: Path, small_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(small_weights), f"data.root={data}", "--output", str(tmp_path / "out")])
    classify_folder(Predictor(small_weights, "cpu"), data, tmp_path / "folder")
    main([str(tmp_path / "folder"), "--truth", str(data), "--output", str(tmp_path / "scored")])
    both = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("out", "scored")]
    assert both[0]["overall"] == both[1]["overall"] and both[1]["accepted"]
    page = check_page(tmp_path / "scored" / "report.html")
    assert f"{both[1]['overall']['roc_auc']['value']:.3f} (" in page.text and ".png, crop 1" in page.text


def test_results_are_not_scored_into_a_weights_folder(data: Path, small_weights: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(small_weights, tmp_path / "weights"))
    classify_folder(Predictor(small_weights, "cpu", "none"), data, tmp_path / "folder")
    before = {file.name: file.read_bytes() for file in weights.iterdir()}
    with pytest.raises(SystemExit, match=r"metrics\.json would be lost; give another --output"):
        main([str(tmp_path / "folder"), "--truth", str(data), "--output", str(weights)])
    assert {file.name: file.read_bytes() for file in weights.iterdir()} == before


def test_what_cannot_be_evaluated_is_a_sentence(data: Path, small_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("file,label,dataset,slide\n0.png,atypical,MIDOG21,1.tiff\n")
    Image.new("RGB", (50, 128)).save(tmp_path / "0.png")
    for arguments, sentence in (
        ([str(small_weights)], "Give the labelled crops as data.root=DIR"),
        ([str(small_weights), "data.folds=3"], "'data.folds=3' is not understood"),
        ([str(small_weights), f"data.root={tmp_path / 'nowhere'}"], "manifest.csv cannot be read"),
        ([str(small_weights), f"data.root={tmp_path}"], "0.png is 50 x 128 pixels .* looks at 78 x 78"),
        ([str(data), f"data.root={data}"], "is no weights folder"),
        ([str(small_weights), f"data.root={data}", "--output", str(small_weights)], "metrics.json would be lost"),
        ([str(small_weights), f"data.root={data}", "--output", str(tmp_path / "0.png")], "cannot be written to"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            main(arguments)


def test_domains_that_weights_were_trained_on_are_named(data: Path, small_weights: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(small_weights, tmp_path / "weights"))
    known = json.loads((DEFAULT_WEIGHTS / "metrics.json").read_text())["domains"]
    for content, named in ((json.dumps({"domains": known}), True), ('{"domains": {"x": {}}}', False), ("[1]", False)):
        (weights / "metrics.json").write_text(content)
        main([str(weights), f"data.root={data}", "--output", str(tmp_path / "out")])
        said = json.loads((tmp_path / "out" / "metrics.json").read_text())["remarks"][-1]
        assert ("were trained on crops of domains that are here, too: " in said) == named
        assert "cannot be told" in said


@pytest.mark.slow
@pytest.mark.skipif(
    not (REPOSITORY / ".venv" / "training-requirements.done").is_file(), reason="needs .venv of `make train-env`"
)
def test_the_script_sets_up_and_evaluates_from_any_folder(data: Path, small_weights: Path, tmp_path: Path) -> None:
    script = REPOSITORY / "training" / "evaluate.sh"
    arguments = [str(small_weights), f"data.root={data}", "--output", str(tmp_path / "out"), "--views", "none"]
    done = subprocess.run([script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "all crops" in done.stdout and (tmp_path / "out" / "metrics.json").is_file()
    done = subprocess.run([script, str(small_weights)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("Give the labelled crops as data.root=DIR")
