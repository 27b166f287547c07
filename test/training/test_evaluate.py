import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from helpers import REPOSITORY


def test_command_line_reports_a_table(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    with (tmp_path / "held_out.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "domain", "group", "fold", "logit", "shifted_logit"])
        for i in range(200):
            atypical = i % 4 == 0
            label = "atypical" if atypical else "normal"
            logits = [random.normal(atypical), random.normal(atypical)]
            writer.writerow([f"{i}.png", label, "x", f"s{i // 5}", i // 5 % 4, *logits])
    command = [sys.executable, "-m", "training.evaluate"]
    done = subprocess.run(
        [*command, tmp_path / "held_out.csv"], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    report = json.loads(done.stdout)
    assert report["crops"] == 200
    assert report["overall"].keys() == report["shifted"].keys() and report["overall"] != report["shifted"]
    missing = subprocess.run([*command, "nowhere.csv"], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert missing.returncode == 1 and missing.stderr.strip().startswith("There is no table nowhere.csv")
