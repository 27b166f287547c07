from pathlib import Path

import numpy as np
import pytest

from training.data.sample import DataError, Sample
from training.evaluation.held_out import calibration_path, find_tables, read_predictions, table_path, write_predictions


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    samples = [Sample(Path(f"a/{i}.png"), i % 2, "tumour, scanner", f"slide {i}") for i in range(4)]
    folds, logits = np.array([0, 1, 1, 0]), np.arange(8).reshape(4, 2) / 3
    table = table_path(tmp_path, "slides")
    write_predictions(table, samples, folds, logits)
    assert [*tmp_path.iterdir()] == find_tables(tmp_path) == [table]
    assert table.read_bytes().splitlines()[:2] == [
        b"file,label,domain,group,fold,logit,shifted_logit",
        b'0.png,normal,"tumour, scanner",slide 0,0,0.000000,0.333333',
    ]
    found = read_predictions(table)
    assert found.labels.tolist() == [0, 1, 0, 1] and found.folds.tolist() == folds.tolist()
    np.testing.assert_allclose(found.logits, logits[:, 0], atol=1e-6)
    np.testing.assert_allclose(found.shifted_logits, logits[:, 1], atol=1e-6)
    assert found.groups.tolist() == [f"slide {i}" for i in range(4)] and {*found.domains} == {"tumour, scanner"}


def test_predictions_for_the_calibrations_are_read_with_the_table(tmp_path: Path) -> None:
    samples = [Sample(Path(f"{i}.png"), i % 2, "d", f"slide {i}") for i in range(4)]
    table, logits = table_path(tmp_path, "sources"), np.arange(8).reshape(4, 2)
    write_predictions(table, samples, np.array([0, 1, 1, 0]), logits)
    assert read_predictions(table).calibrating is None
    write_predictions(calibration_path(table), samples[1:3], np.array([0, 1]), logits[:2])
    calibrating = read_predictions(table).calibrating
    assert calibrating is not None and calibrating.folds.tolist() == [0, 1] and calibrating.labels.tolist() == [1, 0]
    assert find_tables(tmp_path) == [table]
    write_predictions(calibration_path(table), samples[1:3], np.array([0, 0]), logits[:2])
    with pytest.raises(DataError, match=r"calibration_sources\.csv has no rows for fold 1 of held_out_sources\.csv"):
        read_predictions(table)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no rows with a column file; give the held_out_SPLIT"),
        ("file,label\na,normal\n", "has no rows with a column domain"),
        ("file,label,domain,group,fold,logit,shifted_logit\na,odd,b,c,0,1,1\n", "cannot be understood"),
        ("file,label,domain,group,fold,logit,shifted_logit\na,normal,b,c,0,1,1\na,normal,b,c,0,1\n", "understood"),
        ("file,label,domain,group,fold,logit,shifted_logit\na,normal,b,c,0,much,1\n", "'much'"),
    ],
)
def test_another_table_is_refused_by_name(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "other.csv").write_text(text)
    with pytest.raises(DataError, match=f"other.csv .*{sentence}"):
        read_predictions(tmp_path / "other.csv")
