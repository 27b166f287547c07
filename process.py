"""Tells atypical from normal mitotic figures.

    python process.py                   the case in /input, its result to /output (the platform's `exec`)
    python process.py serve             a server that handles one case after another (the platform's `invoke`)
    python process.py folder IN OUT     every crop of every image in a folder, as tables
    python process.py slide SLIDE DETECTIONS OUT    every detection on a slide, for QuPath and as tables
    python process.py slide SLIDES.csv OUT          the same for the slides of a table (slide,detections)
    python process.py merge OUT SHARD...            what one run would have written, from those with --shard I/N

Each takes --help.
"""

import sys

from model.modes.process_state import answer_signals, open_streams, say_why, status_of

if __name__ == "__main__":  # what is imported next takes its time
    answer_signals((lambda _: 0) if sys.argv[1:2] == ["serve"] else status_of)
    open_streams()

import argparse
import contextlib
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from model.constants import DEFAULT_VIEWS, GENERATOR, HOST, MICROMETRES_PER_PIXEL, PORT, REPORT, VIEW_SETS
from model.errors import CropError
from model.modes.case import process_case, table
from model.modes.grand_challenge import clear_result
from model.modes.loader import Loader
from model.modes.shard import Shard

if TYPE_CHECKING:
    from model.predictor import Predictor
    from model.report.explain import Explainer

logger = logging.getLogger("process")


def run_case(arguments: argparse.Namespace, loader: Loader) -> int:
    """The platform's `exec`."""
    prepare_report(arguments.report, [arguments.output])
    explain = None
    if arguments.explain:  # what that needs may be missing, which is said before the case is classified
        clear_result(arguments.output)
        explain = explainer(arguments, loader.predictor())
    done = process_case(arguments.input, arguments.output, loader)
    if arguments.table:
        with contextlib.suppress(OSError):  # nobody reads it; the result is written
            print(table(done.path, done.entries, arguments.prevalence), flush=True)
    if arguments.report:
        from model.report.predictions import report_case

        logger.info("wrote %s", report_case(arguments.input, done, loader.predictor(), explain))
    return 0


def run_server(arguments: argparse.Namespace, loader: Loader) -> int:
    """The platform's `invoke`."""
    from model.modes.server import serve

    handle = partial(process_case, arguments.input, arguments.output, loader)
    return serve(loader.predictor, handle, arguments.clean_up, arguments.host, arguments.port)


def run_folder(arguments: argparse.Namespace, loader: Loader) -> int:
    """A lab's own images."""
    predictor = loader.predictor(every_gpu=True)
    from model.modes.folder import FolderOptions, classify_folder  # which imports PyTorch, as the loader does with care
    from model.modes.tables import FAILURES

    if arguments.mpp is None:
        logger.info(
            "Images that do not state their resolution are taken to have %s µm per pixel; say --mpp if they have not.",
            MICROMETRES_PER_PIXEL,
        )
    options = FolderOptions(arguments.mpp, arguments.prevalence, arguments.resume, sys.stderr.isatty(), arguments.shard)
    prepare_report(arguments.report, [arguments.target])
    explain = explainer(arguments, predictor)
    done = classify_folder(predictor, arguments.source, arguments.target, options)
    logger.info("%d images, %d crops; wrote %s", done.files, done.crops, arguments.target)
    if arguments.report:
        from model.report.predictions import report_folder

        page = report_folder(arguments.source, arguments.target, arguments.mpp, predictor, explain)
        logger.info("wrote %s", page)
    if done.failed:
        failures = arguments.target / FAILURES
        raise CropError(f"{done.failed} of {done.files} images could not be used; {failures} tells which and why.")
    return 0


def run_slide(arguments: argparse.Namespace, loader: Loader) -> int:
    """Slides and detections on them."""
    predictor = loader.predictor(every_gpu=True)
    from model.modes.slide import classify_slide
    from model.modes.slide_list import SLIDES, classify_slides, of_shard, read_slide_list
    from model.modes.slide_options import SlideOptions, SlideTask
    from model.modes.slide_tables import FAILURES

    options = SlideOptions(
        only=tuple(arguments.only),
        everything=arguments.all,
        region=arguments.region,
        unit=arguments.unit,
        origin=arguments.origin,
        prevalence=arguments.prevalence,
        save_crops=arguments.save_crops,
        resume=arguments.resume,
        show_progress=sys.stderr.isatty(),
        shard=arguments.shard,
    )
    slide, *detections, target = arguments.paths
    if not detections:
        every = read_slide_list(slide, target)
        tasks = of_shard(every, options.shard)
        prepare_report(arguments.report, [target, *(task.target for task in tasks)])
        explain = explainer(arguments, predictor)
        failed = classify_slides(predictor, every, target, options)
        if arguments.report:
            from model.report.slides import report_slides

            logger.info("wrote %s", report_slides(tasks, target, predictor, explain))
        if failed:
            raise CropError(f"{failed} of {len(tasks)} slides could not be read in full; {target / SLIDES} tells why.")
        return 0
    task = SlideTask(slide, detections[0], target, arguments.mpp, arguments.area_mm2)
    prepare_report(arguments.report, [target])
    explain = explainer(arguments, predictor)
    done = classify_slide(predictor, task, options)
    logger.info("%s; wrote %s", done.sentence(), target)
    if arguments.report:
        from model.report.slide import report_slide

        logger.info("wrote %s", report_slide(task, predictor, explain))
    if done.failed:
        raise CropError(f"{done.failed} crops of {task.slide} could not be read; {target / FAILURES} tells which.")
    return 0


def prepare_report(wanted: bool, folders: Sequence[Path]) -> None:
    """Removes the pages of an earlier run, which would be taken for this one's; others' only to put a page there."""
    for folder in folders:
        if wanted or is_page(folder / REPORT):
            from model.report.page import clear_report

            clear_report(folder)


def is_page(file: Path) -> bool:
    """Whether this is a page that the program has written."""
    with contextlib.suppress(OSError):
        if file.is_file():
            with file.open("rb") as page:
                return GENERATOR.encode() in page.read(2048)
    return False


def explainer(arguments: argparse.Namespace, predictor: "Predictor") -> "Explainer | None":
    """What draws where the network looked, if that is wanted."""
    if not arguments.explain:
        return None
    from model.report.explain import Explainer

    return Explainer.of(predictor)


def run_merge(arguments: argparse.Namespace, _: Loader) -> int:
    """What one run would have written, from shards."""
    from model.modes.merge import merge
    from model.modes.shard import read_note

    slides = read_note(arguments.shards[0]).slides  # other folders there are not the merge's
    failed = merge(arguments.target, arguments.shards)
    prepare_report(False, [arguments.target, *(arguments.target / name for name in slides)])
    logger.info("%d shards; wrote %s", len(arguments.shards), arguments.target)
    if failed:
        raise CropError(failed)
    return 0


def shard(text: str) -> Shard:
    """One of several runs, for the command line."""
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; give I/N, I from 1 to N") from error


def share(text: str) -> float:
    """A prevalence, for the command line: between 0 and 1."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def area(text: str) -> float:
    """mm², for the command line: up to what a slide holds."""
    number = float(text)
    if not 0 < number <= 5000:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 5000 mm²")
    return number


def micrometres(text: str) -> float:
    """µm per pixel, for the command line: within what microscopes and scanners have."""
    number = float(text)
    if not 0.01 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.01 and 100 µm per pixel")
    return number


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; the mode is its first word, a case when it is none of them."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--weights",
        type=Path,
        help="weights folder (default: MODEL_DIR, then /opt/ml/model, then the one in the image)",
    )
    common.add_argument(
        "--views", choices=VIEW_SETS, default=DEFAULT_VIEWS, help="views averaged (default: %(default)s)"
    )
    common.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)")
    posterior = argparse.ArgumentParser(add_help=False)
    posterior.add_argument(
        "--prevalence",
        type=share,
        metavar="P",
        help="share of atypical figures, between 0 and 1, to add P(atypical) for",
    )
    pages = argparse.ArgumentParser(add_help=False)
    pages.add_argument("--report", action="store_true", help="also write report.html, a page to look at")
    pages.add_argument(
        "--explain", action="store_true", help="that, with maps of where the network looked; needs Captum"
    )
    part = argparse.ArgumentParser(add_help=False)
    part.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="do the I-th of N parts alone; `process.py merge` puts the parts together",
    )
    folders = argparse.ArgumentParser(add_help=False)
    folders.add_argument("--input", type=Path, default=Path("/input"), help="folder of the case (default: %(default)s)")
    folders.add_argument("--output", type=Path, default=Path("/output"), help="for the result (default: %(default)s)")

    def parser(mode: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return argparse.ArgumentParser(
            prog=f"process.py{mode}",
            description=__doc__,
            parents=[*parents, common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    match arguments:
        case ["serve", *rest]:
            serve = parser(" serve", folders)
            serve.add_argument("--host", default=HOST, help="address to listen on (default: %(default)s)")
            serve.add_argument("--port", type=int, default=PORT, help="(default: %(default)s)")
            return serve.parse_args(rest, argparse.Namespace(run=run_server))
        case ["folder", *rest]:
            folder = parser(" folder", posterior, pages, part)
            folder.add_argument("source", type=Path, metavar="IN", help="folder of PNG, JPEG, TIFF and MHA crops")
            folder.add_argument("target", type=Path, metavar="OUT", help="folder for the tables")
            folder.add_argument("--mpp", type=micrometres, help="µm per pixel of all images (default: as they say)")
            folder.add_argument("--resume", action="store_true", help="go on with an interrupted run")
            return folder.parse_args(rest, argparse.Namespace(run=run_folder))
        case ["slide", *rest]:
            return parse_slide(parser(" slide", posterior, pages, part), rest)
        case ["merge", *rest]:
            merge = argparse.ArgumentParser(prog="process.py merge", description="Puts shards together.")
            merge.add_argument("target", type=Path, metavar="OUT", help="folder for the tables")
            merge.add_argument("shards", type=Path, nargs="+", metavar="SHARD", help="folders of all the shards")
            needless = argparse.Namespace(weights=None, device="cpu", views=DEFAULT_VIEWS)
            return merge.parse_args(rest, argparse.Namespace(run=run_merge, **vars(needless)))
        case _:
            one = parser("", folders, posterior, pages)
            one.add_argument("--table", action="store_true", help="also print the result as a table")
            parsed = one.parse_args(arguments, argparse.Namespace(run=run_case))
            if parsed.prevalence is not None and not parsed.table:
                one.error("--prevalence adds a column to the printed table; say --table, too")
            return parsed


def parse_slide(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """The command line of the mode for slides."""
    parser.usage = f"{parser.prog} [options] SLIDE DETECTIONS OUT | SLIDES.csv OUT"
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="as above; OUT is a folder")
    parser.add_argument("--mpp", type=micrometres, help="µm per pixel of the slide (default: as it says)")
    parser.add_argument(
        "--unit", choices=("px", "um"), help="of x and y in a table or points in JSON (default: px of the full slide)"
    )
    parser.add_argument(
        "--origin",
        choices=("slide", "scanned"),
        help="what x and y are counted from (default: in files of QuPath the scanned part's corner, else the slide's)",
    )
    parser.add_argument("--only", action="append", default=[], metavar="CLASS", help="detections of this class alone")
    parser.add_argument("--all", action="store_true", help="MIDOG's hard negatives, too")
    parser.add_argument("--region", default="", metavar="NAME", help="count in the areas of this name or class alone")
    parser.add_argument("--area-mm2", type=area, metavar="A", help="area that was searched, for counts per mm²")
    parser.add_argument("--save-crops", action="store_true", help="also write the crops")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parsed = parser.parse_args(arguments, argparse.Namespace(run=run_slide))
    if len(parsed.paths) not in (2, 3):
        parser.error("give a slide, its detections and a folder, or a table of slides and a folder")
    if len(parsed.paths) == 2 and (parsed.mpp is not None or parsed.area_mm2 is not None):
        parser.error("of several slides, give mpp and area_mm2 as columns of the table")
    if parsed.region and parsed.area_mm2 is not None:
        parser.error("give --region or --area-mm2: a region has its own area")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0, or 1 with one sentence as the last line on stderr."""
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parsed.clean_up = lambda: None
    if getattr(parsed, "explain", False):
        parsed.report = True
    if hasattr(parsed, "output"):
        parsed.clean_up = partial(clear_result, parsed.output, only_partial=True)
    # A server that is told to stop has done its work, anything else has not.
    answer_signals((lambda _: 0) if parsed.run is run_server else status_of, parsed.clean_up)
    try:
        return parsed.run(parsed, Loader(parsed.weights, parsed.device, parsed.views))
    except Exception as error:
        return say_why(error)


if __name__ == "__main__":
    status = main()
    # All is written. To take PyTorch apart in good order would keep the user waiting for half a second more.
    with contextlib.suppress(OSError):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
