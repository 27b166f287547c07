"""Puts shards together into what one run would have written, byte for byte.

All that the shards say is checked before anything is written: that they are all the shards of one run, of the same
input, weights and settings, that each holds what belongs to it and nothing else, and that their tables agree.
"""

import contextlib
import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

from model.errors import CaseError
from model.modes.merge_folder import merge_folder
from model.modes.merge_slide import merge_slide
from model.modes.merge_slide_list import merge_slide_list
from model.modes.shard import ShardNote, Shards, different_settings, read_note
from model.modes.writing import lock

_MERGE = {"folder": merge_folder, "slide": merge_slide, "slides": merge_slide_list}
_LISTED = 10

FILES_A_SHARD, SPARE_FILES = {"folder": 4, "slide": 4, "slides": 1}, 32
"""Files that are open at a time: of each shard its lock and the tables that are read side by side, and all others."""


def merge(target: Path, folders: Sequence[Path]) -> str:
    """Merges shards.

    Args:
        target: folder for the result; what an earlier run wrote there is replaced.
        folders: the shards, all of them, in any order.

    Returns:
        A sentence on what could not be used; empty where everything could.

    Raises:
        CaseError: shards are missing, overlap, are not finished, were altered or are not of one run; or `target` cannot
            be written.
    """
    shards = _in_order(folders)
    if target.exists() and any(target.samefile(folder) for folder in folders):
        raise CaseError(f"{target} is one of the shards; give another folder for the result.")
    kind = shards[0][1].kind
    _allow_files(SPARE_FILES + FILES_A_SHARD[kind] * len(folders))
    with contextlib.ExitStack() as held:
        for folder in folders:
            held.enter_context(_locked(folder))
        return _MERGE[kind](target, shards)


def _allow_files(count: int) -> None:
    """Lets this process have so many files open at a time: all shards are read side by side.

    Raises:
        CaseError: the system does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < count:
        if hard != unlimited and hard < count:
            raise CaseError(
                f"So many shards need {count} open files at a time, and this system allows {hard} (ulimit -Hn); run "
                "fewer, larger shards, or have the limit raised."
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    held = lock(folder)
    try:
        yield
    finally:
        os.close(held)


def _in_order(folders: Sequence[Path]) -> Shards:
    """The shards by number, if all are there, of one input."""
    found: dict[int, tuple[Path, ShardNote]] = {}
    for folder in folders:
        note = read_note(folder)
        first, known = next(iter(found.values()), (folder, note))
        if (note.kind, note.shard.count) != (known.kind, known.shard.count):
            said = f"{note.shard} of a {note.kind}, {known.shard} of a {known.kind}"
            raise CaseError(f"{folder} and {first} are not of one run ({said}); give the shards of one run.")
        if note.shard.number in found:
            other = found[note.shard.number][0]
            raise CaseError(f"{folder} and {other} are both shard {note.shard}; give one of them.")
        if (note.input, note.slides) != (known.input, known.slides):
            raise CaseError(
                f"{folder} and {first} did not have the same input, so something may be in neither; run them again, "
                "and change nothing meanwhile."
            )
        if note.settings != known.settings:
            raise different_settings(folder, first)
        found[note.shard.number] = folder, note
    count = next(iter(found.values()))[1].shard.count
    if missing := [str(number) for number in range(1, count + 1) if number not in found]:
        listed = ", ".join(missing[:_LISTED]) + (" ..." if len(missing) > _LISTED else "")
        raise CaseError(f"Of {count} shards these are missing: {listed}; run them, and give their folders, too.")
    return [found[number] for number in sorted(found)]
