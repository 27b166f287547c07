import csv
import json
from pathlib import Path

import numpy as np
import pytest

from training.evaluate import main


@pytest.mark.usefixtures("few_resamples")
def test_command_line_reports_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    with (tmp_path / "held_out.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "domain", "group", "fold", "logit", "shifted_logit"])
        for i in range(200):
            atypical = i % 4 == 0
            label = "atypical" if atypical else "normal"
            logits = [random.normal(atypical), random.normal(atypical)]
            writer.writerow([f"{i}.png", label, "x", f"s{i // 5}", i // 5 % 4, *logits])
    monkeypatch.setattr("sys.argv", ["evaluate", str(tmp_path / "held_out.csv")])
    main()
    report = json.loads(capsys.readouterr().out)
    assert report["crops"] == 200
    assert report["overall"].keys() == report["shifted"].keys() and report["overall"] != report["shifted"]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for name, sentence in (("nowhere.csv", "There is no table .*nowhere"), ("other.csv", "has no rows with a column")):
        monkeypatch.setattr("sys.argv", ["evaluate", str(tmp_path / name)])
        with pytest.raises(SystemExit, match=sentence):
            main()
