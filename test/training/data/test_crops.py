import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import shared

from training.config import AugmentationConfig
from training.data.crops import BalancedSampler, TrainingCrops, assign_folds, load_crops
from training.data.manifest import DataError, Sample, amibr_domain, read_manifest, write_manifest


def make_samples(slides: int = 20, crops: int = 10) -> list[Sample]:
    """A fifth of the crops of every slide are atypical."""
    return [
        Sample(Path(f"{slide}_{crop}.png"), int(crop % 5 == 0), "scanner", f"slide {slide}")
        for slide in range(slides)
        for crop in range(crops)
    ]


def test_folds_hold_whole_slides_and_the_same_share_of_atypical_crops() -> None:
    samples = make_samples()
    folds = assign_folds(samples, "slides", 4, seed=0)
    of_group = {}
    for sample, fold in zip(samples, folds, strict=True):
        assert of_group.setdefault(sample.group, fold) == fold
    labels = np.array([sample.label for sample in samples])
    assert sorted(set(folds)) == [0, 1, 2, 3]
    assert all(labels[folds == fold].mean() == pytest.approx(0.2, abs=0.01) for fold in range(4))
    assert np.array_equal(folds, assign_folds(samples, "slides", 4, seed=0))
    assert not np.array_equal(folds, assign_folds(samples, "slides", 4, seed=1))


def test_too_little_data_for_the_folds_is_refused() -> None:
    with pytest.raises(DataError, match=r"3 slides .* cannot be split into 4 folds"):
        assign_folds(make_samples(slides=3), "slides", 4, seed=0)


def test_shared_manifest_has_its_known_counts_and_domains() -> None:
    samples = read_manifest(shared("amibr"))
    assert len(samples) == 2894 and sum(sample.label for sample in samples) == 648
    assert len({sample.group for sample in samples}) == 146
    counts = {name: sum(s.domain == name for s in samples) for name in {s.domain for s in samples}}
    assert counts == {
        "Hamamatsu XR": 358, "Hamamatsu S360": 425, "Aperio CS2": 509, "Aperio XT": 1141, "Leica SCN400": 461,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "slide", "domain"),
    [
        ("MIDOG21", "050.tiff", "Hamamatsu XR"), ("MIDOG21", "051.tiff", "Hamamatsu S360"),
        ("MIDOG21", "101.tiff", "Aperio CS2"), ("MIDOG21", "151.tiff", "MIDOG21"),
        ("TUPAC16", "23_stitched1.tif", "Aperio XT"), ("TUPAC16", "24_stitched1.tif", "Leica SCN400"),
        ("elsewhere", "7.tiff", "elsewhere"), ("MIDOG21", "unnumbered.tiff", "MIDOG21"),
    ],
)  # fmt: skip
def test_domains(dataset: str, slide: str, domain: str) -> None:
    assert amibr_domain(dataset, slide) == domain


def write_manifest_rows(root: Path, rows: list[dict[str, str]]) -> None:
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_bad_manifests_are_refused_by_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.csv cannot be read .*data\.root"):
        read_manifest(tmp_path)
    row = {"file": "a.png", "label": "odd", "dataset": "MIDOG21", "slide": "001.tiff"}
    write_manifest_rows(tmp_path, [row])
    with pytest.raises(DataError, match="line 2: the label is 'odd'"):
        read_manifest(tmp_path)
    write_manifest_rows(tmp_path, [row | {"label": "normal"}])
    with pytest.raises(DataError, match=r"line 2: there is no file .*a\.png"):
        read_manifest(tmp_path)
    write_manifest_rows(tmp_path, [{"file": "a.png", "label": "normal"}])
    with pytest.raises(DataError, match="column dataset"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_text("file,label,dataset,slide\na.png,normal\n")
    with pytest.raises(DataError, match="line 2 has too few columns"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_bytes(b"file,label,dataset,slide\ncaf\xe9.png,normal,x,1\n")
    with pytest.raises(DataError, match=r"is no UTF-8 text"):
        read_manifest(tmp_path)
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        load_crops([Sample(tmp_path / "a.png", 0, "", "")])


def test_the_sampler_balances_the_classes_and_starts_afresh_each_epoch() -> None:
    labels = np.array([0] * 80 + [1] * 20)
    sampler = BalancedSampler(labels, balance=1.0, seed=0)
    first = list(sampler)
    assert len(first) == len(sampler) == 100
    assert sum(labels[index] for _, _, index in first) == 50
    assert [place for _, place, _ in first] == list(range(100))
    drawn = np.bincount([index for _, _, index in first], minlength=100)
    assert set(drawn[labels == 1]) == {2, 3} and set(drawn[labels == 0]) == {0, 1}
    assert list(sampler) == first
    sampler.epoch = 1
    assert {epoch for epoch, _, _ in sampler} == {1}
    assert [i for _, _, i in sampler] != [i for _, _, i in first]
    natural = [labels[index] for _, _, index in BalancedSampler(labels, balance=0.0, seed=0)]
    assert sum(natural) == 20


def test_an_item_depends_on_its_place_alone(crops: list[np.ndarray], tmp_path: Path) -> None:
    dataset = TrainingCrops(crops, [[0], [1], [0], [1], [0]], np.ones(5), AugmentationConfig(), seed=3)
    again = TrainingCrops(crops, [[0], [1], [0], [1], [0]], np.ones(5), AugmentationConfig(), seed=3)
    again[(0, 0, 0)]
    for key in ((0, 5, 1), (2, 7, 1)):
        item, item_again = dataset[key], again[key]
        assert np.array_equal(item["crop"], item_again["crop"]) and item["target"] == 1 and item["index"] == 1
        assert all(np.array_equal(item["numbers"][name], item_again["numbers"][name]) for name in item["numbers"])
    angles = [dataset[key]["numbers"]["angle"] for key in ((0, 5, 1), (0, 6, 1), (1, 6, 1))]
    assert len(set(angles)) == 3


def test_a_manifest_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "manifest.csv").write_bytes(b"\xef\xbb\xbffile,label,dataset,slide\r\na.png,normal,x,1\r\n")
    assert read_manifest(tmp_path)[0].path == tmp_path / "a.png"


@pytest.mark.parametrize("sides", [(8, 9), (7, 7)])
def test_crops_of_several_sizes_or_too_small_are_refused_by_name(tmp_path: Path, sides: tuple[int, int]) -> None:
    for name, side in zip("ab", sides, strict=True):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((side, side, 3), np.uint8))
    samples = [Sample(tmp_path / f"{name}.png", 0, "", "") for name in "ab"]
    with pytest.raises(DataError, match=r"[ab]\.png is \d x \d pixels; training needs crops of one size, at least 8"):
        load_crops(samples, smallest=8)


def test_crops_are_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "red.png"), np.full((8, 8, 3), (0, 0, 200), np.uint8))
    (crop,) = load_crops([Sample(tmp_path / "red.png", 0, "", "")])
    assert crop[0, 0].tolist() == [200, 0, 0]


def test_whole_domains_are_held_out_one_after_the_other() -> None:
    samples = [
        Sample(Path(f"{i}.png"), i % 2, "ab"[i // 2 % 2], f"slide {i}", ("x", "y", "z")[i // 4]) for i in range(12)
    ]
    domains = assign_folds(samples, "domains", 4, seed=0)
    assert domains.tolist() == [0, 0, 1, 1] * 3
    assert assign_folds(samples, "sources", 4, seed=0).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    with pytest.raises(DataError, match="The source 'x' cannot be held out"):
        assign_folds([*samples[:1], *samples[2:3], *samples[4:]], "sources", 4, seed=0)


def test_experts_votes_become_agreement_and_soft_labels(tmp_path: Path) -> None:
    samples = read_manifest(shared("amibr"))
    assert {round(sample.agreement, 3) for sample in samples} == {0.667, 1.0}
    split = [sample for sample in samples if sample.agreement < 1]
    assert len(split) == 314 + 328, "crops on which the three experts are not of one mind"
    assert {round(sample.soft_label, 3) for sample in split if sample.label} == {0.667}
    assert {round(sample.soft_label, 3) for sample in split if not sample.label} == {0.333}
    (tmp_path / "a.png").touch()
    row = {"file": "a.png", "label": "normal", "dataset": "x", "slide": "1", "expert1": "True", "expert2": "True"}
    write_manifest_rows(tmp_path, [row])
    with pytest.raises(DataError, match="line 2: most of the experts' votes are against the label normal"):
        read_manifest(tmp_path)


def test_a_written_manifest_is_read_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "crops").mkdir()
    for name in ("a.png", "b, c.png"):
        (tmp_path / "crops" / name).touch()
    samples = [
        Sample(
            tmp_path / "crops" / "a.png", 1, "canine lymphoma, scanner", "slide 1", "x", 0.75, ("AMF other", "a, b")
        ),
        Sample(tmp_path / "crops" / "b, c.png", 0, "d", "slide 2", "y"),
    ]
    path = write_manifest(tmp_path, samples)
    assert path.read_text().startswith("path,label,domain,group,source,agreement,phases\ncrops/a.png,atypical,")
    assert read_manifest(tmp_path) == samples
    path.write_text(path.read_text().replace("0.75", "0.3"))
    with pytest.raises(DataError, match=r"line 2: the agreement is 0\.3"):
        read_manifest(tmp_path)
    with pytest.raises(DataError, match="line 2: the phase 'a;b' has a semicolon"):
        (tmp_path / "amibr").mkdir()
        (tmp_path / "amibr" / "a.png").touch()
        (tmp_path / "amibr" / "manifest.csv").write_text(
            "file,label,dataset,slide,expert1_phase\na.png,normal,TUPAC16,1.tif,a;b\n"
        )
        read_manifest(tmp_path / "amibr")
    path.write_text("path,label,domain,group,source,agreement,phases\ncrops/a.png,normal,d,s,x,1, a; ;b \n")
    assert read_manifest(tmp_path)[0].phases == ("a", "b")
    path.write_text("path,label,domain,group,source,agreement\ncrops/a.png,normal,d,s,x,1\n")
    assert read_manifest(tmp_path)[0].phases == ()
