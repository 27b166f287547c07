"""What the benchmarks measure with."""

import pytest

from benchmark.measuring import run_process

WARNS = """
import sys, time
print("warned " * 30_000, file=sys.stderr)
print("ready", flush=True)
time.sleep(0.5)  # memory is looked at every 10 ms
sys.exit({status})
"""


@pytest.mark.parametrize("ready", [None, "ready"])
def test_a_process_that_warns_much_comes_to_its_end(ready: str | None) -> None:
    """A pipe holds 64 KiB; a run over a folder of drawn crops warns of each of them."""
    seconds, peak = run_process(["-c", WARNS.format(status=0)], ready)
    assert 0 < seconds < 60 and peak > 1


def test_a_process_that_fails_ends_with_what_it_said() -> None:
    with pytest.raises(SystemExit, match=r"failed: (?s:.*)warned warned"):
        run_process(["-c", WARNS.format(status=3)])
