"""Any tree of images: a prediction for every crop in it, with what could not be used set apart.

    OUT/predictions.csv     file,index,class,confidence; a row for each crop, files in sorted order
    OUT/predictions.json    the same as a list of objects, written at the end
    OUT/failures.csv        file,reason; the files that could not be used
    OUT/run.json            weights, settings and how far the run is, so that it can go on after an interruption

While the network works on one block of files, threads read others ahead and write the results of the one before, so the
network does not wait for files, and memory does not grow with their number.
"""

import csv
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model.constants import MICROMETRES_PER_PIXEL
from model.errors import CaseError, CropError, one_line
from model.images.read import SUFFIXES, read_crops
from model.images.rgb import check_size
from model.modes.grand_challenge import DECIMALS, Entry, result
from model.predictor import Predictor

PREDICTIONS, PREDICTIONS_JSON, FAILURES, RUN = "predictions.csv", "predictions.json", "failures.csv", "run.json"
COLUMNS = {PREDICTIONS: ("file", "index", "class", "confidence"), FAILURES: ("file", "reason")}

CROPS_PER_BLOCK = 256
FILES_PER_BLOCK = 256
FILES_AHEAD = 256
BYTES_AHEAD = 1 << 26
READERS = 2

Content = Tensor | str
"""The fields of view of a file's crops, (N, F, F, 3) uint8, or why it has none."""

Block = list[tuple[Path, Content]]


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        settings: what must be the same when it is gone on with.
        files: images done, in sorted order, failed ones among them.
        last: the last of them.
        crops: crops predicted.
        failed: images that could not be used.
        sizes: bytes of the tables that belong to those images.
    """

    settings: dict
    files: int = 0
    last: str = ""
    crops: int = 0
    failed: int = 0
    sizes: dict[str, int] = field(default_factory=dict)


def classify_folder(
    predictor: Predictor,
    source: Path,
    target: Path,
    mpp: float = MICROMETRES_PER_PIXEL,
    resume: bool = False,
    show_progress: bool = False,
) -> Progress:
    """Classifies every crop of every image in a folder and the folders in it.

    Args:
        predictor: the network.
        source: folder of images; files with other suffixes than `model.images.read.SUFFIXES` are passed over.
        target: folder for the tables, made when missing.
        mpp: µm per pixel of the images; other than 0.25 rescales them.
        resume: go on with what an interrupted run left in `target`.
        show_progress: show a bar with rate and time left on stderr.

    Returns:
        What was done, over all runs.

    Raises:
        CaseError: `source` holds no image, `target` cannot be written, or it holds another run to go on with.
    """
    if not source.is_dir():
        raise CaseError(f"{source} is no folder; give a folder of images.")
    total = sum(1 for _ in image_files(source))
    if not total:
        raise CaseError(f"{source} holds no image ({', '.join(SUFFIXES)}); give a folder of images.")
    settings = {"weights": _fingerprint(predictor), "views": predictor.view_set, "mpp": mpp}
    try:
        target.mkdir(parents=True, exist_ok=True)
        progress = _continue(target, settings, source) if resume else _start(target, settings)
        left = islice(image_files(source), progress.files, None)
        with tqdm(total=total, initial=progress.files, unit="file", disable=not show_progress) as bar:
            files = _read_ahead(
                left, lambda file: _read(source / file, predictor, mpp), lambda file: _size(source / file)
            )
            written = Future()
            written.set_result(None)
            with ThreadPoolExecutor(1) as writer:
                for block in _blocks(files):
                    entries = _predict(predictor, block)
                    written.result()
                    written = writer.submit(_write_block, block, entries, target, progress)
                    bar.update(len(block))
                written.result()
        _write_json(target)
    except OSError as error:
        raise CaseError(f"{target} cannot be written ({error.strerror}); give a writable folder with space.") from error
    return progress


def _fingerprint(predictor: Predictor) -> str:
    """SHA-256 of what `config.json` says of the tensors, and of what is done before and after the network."""
    config = replace(predictor.config, training={})  # which is for people
    return hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()).hexdigest()


def image_files(folder: Path, below: Path = Path()) -> Iterator[Path]:
    """Paths, relative to `folder`, of the images in it and the folders in it, sorted by name; hidden ones left out."""
    try:
        with os.scandir(folder / below) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise CaseError(f"{folder / below} cannot be listed ({error.strerror}); make it readable.") from error
    for entry in ordered:
        if entry.name.startswith("."):
            continue  # what file systems leave beside the images
        if entry.is_dir(follow_symlinks=False):
            yield from image_files(folder, below / entry.name)
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            yield below / entry.name


def _read(path: Path, predictor: Predictor, mpp: float) -> Content:
    try:
        crops = read_crops(path)
        if mpp != MICROMETRES_PER_PIXEL:
            longest = max(max(crop.shape[:2]) for crop in crops) * mpp / MICROMETRES_PER_PIXEL
            check_size(path, len(crops), round(longest) ** 2)
            crops = [rescale(crop, mpp) for crop in crops]
        return predictor.config.preprocessing.cut_out(crops)
    except CropError as error:
        return one_line(error)


def rescale(crop: np.ndarray, mpp: float) -> np.ndarray:
    """A crop of `mpp` µm per pixel, (H, W, 3) uint8, resampled to 0.25 µm per pixel."""
    factor = mpp / MICROMETRES_PER_PIXEL
    size = [max(1, round(side * factor)) for side in (crop.shape[1], crop.shape[0])]
    return cv2.resize(crop, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def _read_ahead(
    files: Iterable[Path], read: Callable[[Path], Content], size: Callable[[Path], int]
) -> Iterator[tuple[Path, Content]]:
    """Each file with what `read` makes of it, in order; at most `FILES_AHEAD` wait, or `BYTES_AHEAD` and one more."""
    waiting: deque[tuple[Path, int, Future]] = deque()
    held = 0

    def first() -> tuple[Path, Content]:
        nonlocal held
        file, count, future = waiting.popleft()
        held -= count
        return file, future.result()

    readers = ThreadPoolExecutor(READERS)
    try:
        for file in files:
            while waiting and (len(waiting) >= FILES_AHEAD or held >= BYTES_AHEAD):
                yield first()
            count = size(file)
            held += count
            waiting.append((file, count, readers.submit(read, file)))
        while waiting:
            yield first()
    finally:
        readers.shutdown(wait=False, cancel_futures=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # which reading it will find out


def _blocks(files: Iterable[tuple[Path, Content]]) -> Iterator[Block]:
    block, crops = [], 0
    for file, content in files:
        block.append((file, content))
        crops += len(content) if isinstance(content, Tensor) else 0
        if crops >= CROPS_PER_BLOCK or len(block) >= FILES_PER_BLOCK:
            yield block
            block, crops = [], 0
    if block:
        yield block


def _predict(predictor: Predictor, block: Block) -> list[Entry]:
    fields = [content for _, content in block if isinstance(content, Tensor)]
    return result(predictor.predict_fields(torch.cat(fields))) if fields else []


def _write_block(block: Block, results: Iterable[Entry], target: Path, progress: Progress) -> None:
    entries = iter(results)
    rows: dict[str, list[tuple]] = {PREDICTIONS: [], FAILURES: []}
    for file, content in block:
        if isinstance(content, str):
            rows[FAILURES].append((file, content))
        else:
            for index, entry in enumerate(islice(entries, len(content))):
                rows[PREDICTIONS].append((file, index, entry["class"], f"{entry['confidence']:.{DECIMALS}f}"))
    for name, lines in rows.items():
        with _open(target / name, "a") as file:
            csv.writer(file).writerows(lines)
            file.flush()
            progress.sizes[name] = os.fstat(file.fileno()).st_size
    progress.files += len(block)
    progress.last = str(block[-1][0])
    progress.crops += len(rows[PREDICTIONS])
    progress.failed += len(rows[FAILURES])
    _write_whole(target / RUN, json.dumps(asdict(progress), indent=2))


def _start(target: Path, settings: dict) -> Progress:
    progress = Progress(settings)
    (target / PREDICTIONS_JSON).unlink(missing_ok=True)
    for name, columns in COLUMNS.items():
        with _open(target / name, "w") as file:
            csv.writer(file).writerow(columns)
        progress.sizes[name] = (target / name).stat().st_size
    _write_whole(target / RUN, json.dumps(asdict(progress), indent=2))
    return progress


def _continue(target: Path, settings: dict, source: Path) -> Progress:
    path = target / RUN
    try:
        progress = Progress(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return _start(target, settings)
    except (ValueError, TypeError) as error:
        raise CaseError(f"{path} cannot be understood; run again without --resume.") from error
    if progress.settings != settings:
        raise CaseError(f"{target} holds a run with other weights, views or mpp; run again without --resume.")
    last = next(islice(image_files(source), max(0, progress.files - 1), None), None)
    if progress.files and str(last) != progress.last:
        raise CaseError(f"{source} is not what it was when {target} was begun; run again without --resume.")
    for name, size in progress.sizes.items():
        os.truncate(target / name, size)
    return progress


def _write_json(target: Path) -> None:
    partial = target / f".{PREDICTIONS_JSON}.partial"
    with _open(target / PREDICTIONS, "r") as table, _open(partial, "w") as file:
        separator = "[\n"
        for row in csv.DictReader(table):
            entry = row | {"index": int(row["index"]), "confidence": float(row["confidence"])}
            file.write(f"{separator}  {json.dumps(entry)}")
            separator = ",\n"
        file.write("\n]\n" if separator != "[\n" else "[]\n")
    partial.replace(target / PREDICTIONS_JSON)


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with _open(partial, "w") as file:
        file.write(text)
    partial.replace(path)


def _open(path: Path, mode: str):
    """Text file; bytes of a file name that are no UTF-8 are kept as they are."""
    return path.open(mode, encoding="utf-8", errors="surrogateescape", newline="")
