"""Makes one manifest of the data sets a user has downloaded; the crops stay where they are.

.venv/bin/python -m training.prepare OUT --amibr DIR --midog25 DIR --omg-octo DIR --atnorm-br DIR --atnorm-md DIR

Any of the sets may be left out. `training/train.sh RECIPE data.root=OUT` then trains on them. A set of one's own comes
with a table, whose columns are named unless they are called file, label, slide and domain:

.venv/bin/python -m training.prepare OUT --images DIR --labels CSV --columns file=NAME,label=NAME,slide=NAME,domain=NAME

What is there twice is used once. Sets take precedence in the order above, one's own last, whatever the order of the
options:

* Of a slide that several sets have crops of, only the first set's are used. So far that is MIDOG 2021's slides, which
  are in AMi-Br and in MIDOG25.
* Of crops with the same pixels, one is used, with the label that most of them have; none where both labels are as
  frequent. That another label was given is said.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # so that the file can be run by its path, too

import numpy as np
from tqdm import tqdm

from model.constants import CLASSES
from model.errors import CropError, UserError, one_line
from model.images.read import read_crops
from training.data.csv_file import read_csv
from training.data.duplicates import find_duplicates, pixels_digest
from training.data.manifest import COLUMNS, MANIFEST, PHASES, write_manifest
from training.data.own_set import ROLES, OwnSet, own_spellings, parse_columns, read_own_set
from training.data.published_sets import SETS
from training.data.sample import DataError, Sample
from training.data.selection import Selection
from training.data.text import NAMED, aligned, listing

logger = logging.getLogger(__name__)

SAME_SLIDE = "slide in an earlier set"
SAME_PIXELS = "same pixels as another crop"
OTHER_LABEL = "same pixels, but another label"
DOUBTFUL = "label contradicted"
UNLISTED = "not in the set's table"
UNWANTED = "not among those to use"

Found = tuple[str, Sample]
"""A crop and the name of the set that it was found in, which several sources' slides may be in."""


@dataclass(frozen=True)
class Prepared:
    """Outcome.

    Attributes:
        manifest: the file written.
        found: what is in it.
        removed: number of crops that are not, by (set, reason).
    """

    manifest: Path
    found: list[Found]
    removed: Counter[tuple[str, str]]

    @property
    def samples(self) -> list[Sample]:
        """The crops in the manifest, in its order."""
        return [sample for _, sample in self.found]


def prepare(
    target: Path,
    folders: dict[str, Path],
    own: OwnSet | None = None,
    size: int = 128,
    only: Selection | None = None,
) -> Prepared:
    """Writes `manifest.csv` about the crops of several data sets, or nothing if one of them cannot be used.

    Args:
        target: folder for the manifest, made when missing.
        folders: where the sets are, by their keys in `training.data.published_sets.SETS`.
        own: a set of the user's own.
        size: height and width that every crop must have, in pixels.
        only: the crops to use of published sets; all of them without.

    Raises:
        DataError: a set is not laid out as published, or as the user says; a crop is missing, unreadable or of another
            size, or not there though `only` lists it; or the manifest cannot be written.
    """
    target = target.resolve()
    _check_target(target)
    sets = [(name, read(folders[key].resolve())) for key, (name, read) in SETS.items() if key in folders]
    removed: Counter[tuple[str, str]] = Counter()
    if only:
        only.check_sets([name for name, _ in sets])
        for name, data in sets:
            every, data.samples = data.samples, only.of(name, data.samples)
            removed[name, UNWANTED] = len(every) - len(data.samples)
    if own:
        if own.name.strip().lower() in ("", *(name.lower() for name, _ in SETS.values())):
            raise DataError(f"The --name '{own.name}' is empty or a published set's; give another for your own.")
        sets.append((own.name, read_own_set(replace(own, images=own.images.resolve()))))
    found: list[Found] = []
    for name, data in sets:
        found += [(name, sample) for sample in data.samples]
        removed[name, DOUBTFUL] = len(data.doubtful)
        removed[name, UNLISTED] = len(data.unlisted)
        _warn(f"crops of {name} are left out, their label being contradicted", data.doubtful)
        _warn(f"images of {name} are left out, {data.table or 'no class folder'} not naming them", data.unlisted)
    found = drop_shared_slides(found, removed)
    found = drop_same_pixels(found, size, removed)
    left = sum(name == "AtNorM-MD" for name, _ in found)
    if left and any(sample.group.startswith("MIDOG/") for _, sample in found):
        logger.warning(
            "AtNorM-MD does not say which of the MIDOG challenges' slides its crops are of: %d of them may be of "
            "slides of AMi-Br or MIDOG25 on the other side of a split; leave that set out where it matters.",
            left,
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target} cannot be made: {error.strerror}; give another folder.") from error
    return Prepared(write_manifest(target, [sample for _, sample in found]), found, +removed)


def drop_shared_slides(found: Sequence[Found], removed: Counter[tuple[str, str]]) -> list[Found]:
    """Leaves out crops of slides that an earlier set has crops of, and counts them in `removed`."""
    first: dict[str, str] = {}
    kept = []
    for name, sample in found:
        if first.setdefault(sample.group, name) == name:
            kept.append((name, sample))
        else:
            removed[name, SAME_SLIDE] += 1
    return kept


def drop_same_pixels(found: Sequence[Found], size: int, removed: Counter[tuple[str, str]]) -> list[Found]:
    """Leaves out crops that show what another one shows, as `find_duplicates` says, and counts them in `removed`.

    Memory holds one crop at a time and 16 bytes of each.

    Raises:
        DataError: a crop cannot be read or has another size; all are read before.
    """
    digests: list[bytes] = []
    bad: list[str] = []
    for _, sample in tqdm(found, desc="Reading crops", unit=" crops", disable=not sys.stderr.isatty()):
        try:
            digests.append(pixels_digest(read_crop(sample.path, size)))
        except CropError as error:
            bad.append(str(error))
    if bad:
        for sentence in bad[1 : NAMED + 1]:
            logger.error("%s", sentence)
        others = f" ({len(bad) - 1} more crops cannot be used either)" if len(bad) > 1 else ""
        raise DataError(f"{bad[0].rstrip('.')}{others}.")
    duplicates = find_duplicates([sample for _, sample in found], digests)
    for duplicate in duplicates:
        removed[found[duplicate.index][0], OTHER_LABEL if duplicate.contradicted else SAME_PIXELS] += 1
    contradictions = [duplicate.sentence for duplicate in duplicates if duplicate.contradicted]
    _warn("crops are left out, their pixels having another label as well", contradictions)
    left_out = {duplicate.index for duplicate in duplicates}
    return [crop for index, crop in enumerate(found) if index not in left_out]


def read_crop(path: Path, size: int) -> np.ndarray:
    """Reads the one crop of a file: (size, size, 3) uint8 RGB.

    Raises:
        CropError: it cannot be read, is not the only one, or has another size.
    """
    pages = read_crops(path)
    if len(pages) != 1:
        raise CropError(f"{path} holds {len(pages)} crops; give one crop a file.")
    height, width = pages[0].shape[:2]
    if (height, width) != (size, size):
        raise CropError(
            f"{path} is {width} x {height} pixels instead of {size} x {size}; replace or remove it, or give --size "
            "if all crops are that large."
        )
    return pages[0]


def summary(prepared: Prepared) -> str:
    """Tables of the crops by set, source, domain and class, and of those left out by set and reason."""
    names = [name for name, _ in SETS.values()]
    names += [name for name, *_ in (*prepared.found, *prepared.removed) if name not in names]
    parts: dict[tuple[str, str, str], list[Sample]] = {}
    for name, sample in prepared.found:
        parts.setdefault((name, sample.source, sample.domain), []).append(sample)
    rows: list[tuple[object, ...]] = [("set", "source", "domain", "groups", *CLASSES)]
    for key in sorted(parts, key=lambda key: (names.index(key[0]), *key)):
        rows.append((*key, *_counts(parts[key])))
    text = aligned([*rows, ("all", "", "", *_counts(prepared.samples))])
    if prepared.removed:
        left_out = [(name, reason, count) for (name, reason), count in prepared.removed.items()]
        left_out.sort(key=lambda row: names.index(row[0]))
        text += "\n\n" + aligned([("set", "left out", "crops"), *left_out])
    return text


def _counts(samples: Sequence[Sample]) -> tuple[int, ...]:
    """Number of groups, and of crops of each class."""
    labels = Counter(sample.label for sample in samples)
    return len({sample.group for sample in samples}), *(labels[label] for label in range(len(CLASSES)))


def _check_target(target: Path) -> None:
    """Keeps a set's own `manifest.csv` from being replaced."""
    path = target / MANIFEST
    if path.exists():
        table = read_csv(path, "give another folder")
        if table.rows and table.columns not in (COLUMNS, (*COLUMNS, PHASES)):
            raise DataError(f"{path} was not written by this program; give another folder for the new manifest.")


def _warn(what: str, crops: Sequence[object]) -> None:
    if crops:
        logger.warning("%s", listing(what, crops))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: the folder for the manifest and those of the data sets."""
    parser = argparse.ArgumentParser(
        prog="python -m training.prepare", description="Write one manifest of the downloaded data sets' crops."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help=f"folder for {MANIFEST}")
    for key, (name, _) in SETS.items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=Path, metavar="DIR", help=f"folder of {name}")
    parser.add_argument("--only", type=Path, metavar="CSV", help="table set,file of the published crops to use")
    own = parser.add_argument_group("a set of one's own")
    own.add_argument("--images", type=Path, metavar="DIR", help="folder of the crops")
    own.add_argument("--labels", type=Path, metavar="CSV", help="table of the crops")
    own.add_argument(
        "--columns",
        default="",
        metavar="ROLE=NAME,…",
        help=f"columns that are not called as what they are: {', '.join(ROLES)}; slide=none if each crop has its own; "
        "experts=NAME+NAME for votes",
    )
    own.add_argument("--name", default="own", help="of the set: its source, and domain, without a column (own)")
    for label in ("atypical", "normal"):
        own.add_argument(
            f"--{label}", action="append", default=[], metavar="VALUE", help=f"how the table writes {label}; repeatable"
        )
    parser.add_argument("--size", type=int, default=128, help="height and width of all crops in pixels (128)")
    parsed = parser.parse_args(arguments)
    folders = {key: getattr(parsed, key) for key in SETS if getattr(parsed, key) is not None}
    if (parsed.images is None) != (parsed.labels is None):
        parser.error("give --images and --labels together")
    if parsed.images is None and (parsed.columns or parsed.atypical or parsed.normal):
        parser.error("--columns, --atypical and --normal are about a set of one's own; give its --images and --labels")
    if not folders and parsed.images is None:
        parser.error("give the folder of at least one data set")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        only = None if parsed.only is None else Selection(parsed.only)
        own_set = None
        if parsed.images is not None:
            columns = parse_columns(parsed.columns) if parsed.columns else {}
            spellings = own_spellings(parsed.atypical, parsed.normal)
            own_set = OwnSet(parsed.images, parsed.labels, columns, spellings, parsed.name)
        prepared = prepare(parsed.out, folders, own_set, parsed.size, only)
    except UserError as error:
        sys.exit(one_line(error))
    print(summary(prepared))
    print(f"\n{prepared.manifest}")


if __name__ == "__main__":
    main()
