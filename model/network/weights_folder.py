"""Which weights folder, and whether its tensors are intact; imports no PyTorch, so that both begin before that does.

<folder>/config.json          everything needed to rebuild and run the network (`model.network.weights.WeightsConfig`)
<folder>/model.safetensors    its tensors
<folder>/README.md            model card, for people
"""

import hashlib
import logging
import mmap
import os
import threading
from concurrent.futures import Future
from pathlib import Path

from model.errors import WeightsError

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"
BAKED = Path(__file__).parent.parent / "weights" / "default"
"""The weights folder in the image."""

UPLOADED = Path("/opt/ml/model")
"""Where the platform extracts the model tarball that was uploaded apart from the image."""

_begun: dict[Path, Future[str]] = {}


def choose_weights(argument: Path | None) -> Path:
    """The weights folder to use, in this order: the argument, the environment's `MODEL_DIR`, `UPLOADED`, `BAKED`.

    Args:
        argument: what the command line says, if anything.

    Raises:
        WeightsError: none of them is there, or something was uploaded that is no weights folder.
    """
    if argument is not None:
        return _chosen(argument, "--weights says so")
    if os.environ.get("MODEL_DIR"):
        return _chosen(Path(os.environ["MODEL_DIR"]), "MODEL_DIR says so")
    if (uploaded := _uploaded()) is not None:
        return _chosen(uploaded, "a model was uploaded")
    if BAKED.is_dir():
        return _chosen(BAKED, f"they came with the program; {UPLOADED} holds none")
    raise WeightsError(f"There are no weights: {UPLOADED} and {BAKED} hold none; give --weights or MODEL_DIR.")


def _uploaded() -> Path | None:
    """The weights folder that was uploaded: `UPLOADED`, or the one folder in it that is one; None where it is empty.

    Raises:
        WeightsError: something else is there; to run the baked weights then would be to run what nobody asked for.
    """
    try:
        found = sorted(path for path in UPLOADED.iterdir() if not path.name.startswith((".", "lost+found")))
        inside = [path for path in found if (path / CONFIG_FILE).exists() or (path / TENSOR_FILE).exists()]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WeightsError(f"{UPLOADED} cannot be listed ({error.strerror}); upload the model again.") from error
    if not found:
        return None
    names = [path.name for path in found]
    # Half a weights folder is one, too: what is missing is said when it is read.
    if CONFIG_FILE in names or TENSOR_FILE in names:
        return UPLOADED
    if len(inside) == 1:
        return inside[0]
    what = "several weights folders" if inside else "no weights folder"
    raise WeightsError(
        f"{UPLOADED} holds {what} (but {', '.join(names[:5])}); upload one with {CONFIG_FILE} and {TENSOR_FILE} at the "
        "top of the archive."
    )


def _chosen(folder: Path, why: str) -> Path:
    logger.info("Weights: %s (%s).", folder, why)
    return folder


def begin_sha256(path: Path) -> None:
    """Starts to compute a file's SHA-256 in the background; `sha256_once` waits for it.

    It also brings the file into memory while PyTorch is imported, so that nothing waits for the disk afterwards.
    """
    future: Future[str] = Future()

    def compute() -> None:
        try:
            future.set_result(file_sha256(path))
        except Exception as error:  # whatever it is, somebody waits
            future.set_exception(error)

    _begun[path] = future
    threading.Thread(target=compute, daemon=True).start()


def sha256_once(path: Path) -> str:
    """`file_sha256`, or what `begin_sha256` makes of it; a second call computes afresh.

    Raises:
        OSError: the file cannot be read.
    """
    begun = _begun.pop(path, None)
    return file_sha256(path) if begun is None else begun.result()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal.

    Raises:
        OSError: the file cannot be read.
        ValueError: it became empty meanwhile.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size:  # nothing cannot be mapped
            # One call for the whole file: between two, a background thread waits while others import modules.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                content.madvise(mmap.MADV_WILLNEED)
                digest.update(content)
    return digest.hexdigest()
