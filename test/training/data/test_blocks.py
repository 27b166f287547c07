"""Blocks of file numbers in the place of slides."""

import random
from pathlib import Path

import pytest

from training.data.blocks import file_number, in_blocks
from training.data.sample import Sample


def crops(numbers: list[int], domain: str = "d", atypical: int = 5) -> list[Sample]:
    """Crops with these numbers, every fifth (or another share) atypical."""
    return [Sample(Path(f"{number}.png"), int(number % atypical == 0), domain, "Set") for number in numbers]


def test_a_block_holds_neighbours_of_both_classes_in_any_order_of_the_samples() -> None:
    samples = crops(list(range(188, 313)))
    random.Random(0).shuffle(samples)
    blocks = in_blocks(samples, 25)
    assert [block.path for block in blocks] == [sample.path for sample in samples]
    groups: dict[str, list[int]] = {}
    for block in blocks:
        groups.setdefault(block.group, []).append(file_number(block.path))
    assert sorted(groups) == [f"Set/{first:04d}-{first + 24:04d}" for first in range(188, 312, 25)]
    for name, numbers in groups.items():
        assert sorted(numbers) == list(range(int(name[4:8]), int(name[9:]) + 1))
        assert {number % 5 == 0 for number in numbers} == {True, False}


def test_blocks_are_of_one_size_and_never_cross_a_border_of_domains() -> None:
    samples = [*crops(list(range(1, 61)), "a"), *crops(list(range(61, 81)), "b"), *crops([90, 95], "a")]
    sizes: dict[tuple[str, str], int] = {}
    for sample in in_blocks(samples, 25):
        sizes[sample.group, sample.domain] = sizes.get((sample.group, sample.domain), 0) + 1
    assert sizes == {
        ("Set/0001-0030", "a"): 30,
        ("Set/0031-0060", "a"): 30,
        ("Set/0061-0080", "b"): 20,
        ("Set/0090-0095", "a"): 2,
    }


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([*crops([1, 2, 5]), Sample(Path("x.png"), 0, "d", "Set")], r"the name of x\.png does not end in a number"),
        (
            [*crops([1, 2, 5]), Sample(Path("Normal/5.png"), 0, "d", "Set")],
            r"5\.png and Normal/5\.png have the same number",
        ),
        (
            [Sample(Path(f"{number}.png"), int(number < 40), "d", "Set") for number in range(100)],
            "its classes are numbered one after the other",
        ),
    ],
)
def test_numbers_that_are_no_order_of_slides_leave_one_group(
    samples: list[Sample], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where each class has numbers of its own, neighbours in number are of other slides than those of the other."""
    assert in_blocks(samples, 2) == samples
    assert f"Set stays one group, which no split divides: {reason}.".replace("\\", "") in caplog.text


def test_the_number_of_a_file_is_what_its_name_ends_in() -> None:
    assert [file_number(Path(name)) for name in ("188.png", "Normal/007.tif", "br_2_13.png", "7a.png")] == [
        188,
        7,
        13,
        -1,
    ]
