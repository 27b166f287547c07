from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import config_for

from training.data.folds import assign_folds, few_of_each, make_split
from training.data.sample import DataError, Sample


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
    fold_of_group: dict[str, int] = {}
    for sample, fold in zip(samples, folds, strict=True):
        assert fold_of_group.setdefault(sample.group, fold) == fold
    labels = np.array([sample.label for sample in samples])
    assert sorted(set(folds)) == [0, 1, 2, 3]
    assert all(labels[folds == fold].mean() == pytest.approx(0.2, abs=0.01) for fold in range(4))
    assert np.array_equal(folds, assign_folds(samples, "slides", 4, seed=0))
    assert not np.array_equal(folds, assign_folds(samples, "slides", 4, seed=1))


def test_too_little_data_for_the_folds_is_refused() -> None:
    with pytest.raises(DataError, match=r"3 slides .* cannot be split into 4 folds"):
        assign_folds(make_samples(slides=3), "slides", 4, seed=0)


def test_a_class_on_one_slide_alone_is_refused_before_anything_is_fitted() -> None:
    """The fit that holds that slide out would have nothing of it to learn from."""
    samples = [
        Sample(Path(f"{i}.png"), int(i < 12), "scanner", "first" if i < 12 else f"slide {i % 30}", "s")
        for i in range(200)
    ]
    with pytest.raises(DataError, match=r"The fit slides_\d would .* no atypical crops: .* too few slides \(1\); give"):
        make_split(samples, "slides", 3, seed=0)
    spread = [replace(sample, group=f"slide {i % 30}") for i, sample in enumerate(samples)]
    assert len(make_split(spread, "slides", 3, seed=0).fits) == 3


def test_the_rest_of_a_data_set_held_out_must_serve_its_calibration() -> None:
    """Of source b all atypical crops are on one slide, so with a held out they are on one side of the calibration."""
    samples = [
        Sample(Path(f"{i}.png"), int(i % 5 == 0), "d", f"{'ab'[i % 2]} {i if i % 5 else i % 2}", "ab"[i % 2])
        for i in range(120)
    ]
    with pytest.raises(
        DataError, match=r"The fit sources_0_calibration would .* no atypical crops: .* few slides \(1\)"
    ):
        make_split(samples, "sources", 3, seed=0)


def test_whole_domains_are_held_out_one_after_the_other() -> None:
    samples = [
        Sample(Path(f"{i}.png"), i % 2, "ab"[i // 2 % 2], f"slide {i}", ("x", "y", "z")[i // 4]) for i in range(12)
    ]
    domains = assign_folds(samples, "domains", 4, seed=0)
    assert domains.tolist() == [0, 0, 1, 1] * 3
    assert assign_folds(samples, "sources", 4, seed=0).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    with pytest.raises(DataError, match="The source 'x' cannot be held out"):
        assign_folds([*samples[:1], *samples[2:3], *samples[4:]], "sources", 4, seed=0)


@pytest.mark.parametrize("split", ["domains", "sources"])
def test_a_slide_in_two_of_what_is_held_out_whole_is_refused(split: str) -> None:
    """A slide that two scanners have scanned would be learnt from one of them and predicted on the other."""
    about = [("ab"[i % 2], "ab"[i % 2]) for i in range(8)]
    samples = [Sample(Path(f"{i}.png"), i // 4, d, f"slide {i}", s) for i, (d, s) in enumerate(about)]
    assert assign_folds(samples, split, 4, seed=0).tolist() == [0, 1] * 4
    scanned = [*samples, replace(samples[2], domain="b", source="b")]
    message = rf"The slide \(group\) 'slide 2' is in the {split} 'a' and 'b'.*; give its crops one {split[:-1]} in"
    with pytest.raises(DataError, match=message):
        assign_folds(scanned, split, 4, seed=0)


def test_a_held_out_source_is_calibrated_by_a_fit_to_other_slides_of_the_rest() -> None:
    samples = [
        replace(sample, source="ab"[i // 5 % 2], group=f"{sample.group} {i // 5 % 2}")
        for i, sample in enumerate(make_samples())
    ]
    split = make_split(samples, "sources", 4, seed=0)
    assert [fit.name for fit in split.all_fits] == [
        *("sources_0", "sources_1", "sources_0_calibration", "sources_1_calibration")
    ]
    groups, sources = (np.array([getattr(sample, name) for sample in samples]) for name in ("group", "source"))
    for fit, calibrating, source in zip(split.fits, split.calibrating, "ab", strict=True):
        assert {*sources[fit.held_out]} == {source} and source not in sources[fit.training]
        for part in (calibrating.training, calibrating.held_out):
            assert part.any() and source not in sources[part]
        assert not {*groups[calibrating.training]} & {*groups[calibrating.held_out]}
        assert np.array_equal(calibrating.training | calibrating.held_out, fit.training)
    assert not make_split(samples, "slides", 4, seed=0).calibrating


def test_a_dry_run_s_few_crops_are_of_every_kind_and_many_slides(tmp_path: Path) -> None:
    samples = [replace(sample, source="ab"[i // 10000]) for i, sample in enumerate(make_samples(100, 200))]
    config = config_for(tmp_path, tmp_path, "optimisation.batch_size=32", "data.folds=4")
    few = few_of_each(samples, config)
    assert len(few) == 4 * 32 and {(s.source, s.label) for s in few} == {(s, label) for s in "ab" for label in (0, 1)}
    assert len({sample.group for sample in few}) == 2 * 32
    make_split(few, "sources", 4, seed=0)
