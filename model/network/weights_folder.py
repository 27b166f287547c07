"""Which weights folder, and whether its tensors are intact; imports no PyTorch, so that both begin before that does.

<folder>/config.json          everything needed to rebuild and run the network (`model.network.weights.WeightsConfig`)
<folder>/model.safetensors    its tensors
<folder>/README.md            model card, for people
"""

import contextlib
import hashlib
import logging
import mmap
import os
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO

from model.errors import WeightsError
from model.files import open_regular

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"
BAKED = Path(__file__).parent.parent / "weights" / "default"
"""The weights folder in the image."""

UPLOADED = Path("/opt/ml/model")
"""Where the platform extracts the model tarball that was uploaded apart from the image."""


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


def refuse_address(folder: Path) -> None:
    """Refuses an address on the hub in the place of a folder.

    Raises:
        WeightsError: it is one, `hf:…`.
    """
    if str(folder).startswith("hf:"):
        raise WeightsError(
            f"{folder} is on the hub, and nothing is fetched here; run `python -m training.fetch {folder} DIR` where "
            "there is a network, then give DIR."
        )


def _chosen(folder: Path, why: str) -> Path:
    refuse_address(folder)
    logger.info("Weights: %s (%s).", folder, why)
    return folder


class TensorFile:
    """The tensor file of a weights folder, open, so that what is hashed is what is loaded; a context manager.

    Its SHA-256 is computed in the background. That also brings it into memory while PyTorch is imported, so that
    nothing waits for the disk afterwards.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_regular(path)
        self._sha256: Future[str] = Future()
        threading.Thread(target=self._compute, daemon=True).start()
        by_descriptor = Path(f"/proc/self/fd/{self._file.fileno()}")
        self.path = by_descriptor if by_descriptor.exists() else path

    def _compute(self) -> None:
        try:
            self._sha256.set_result(_sha256(self._file))
        except Exception as error:  # whatever it is, somebody waits
            self._sha256.set_exception(error)

    def sha256(self) -> str:
        """SHA-256 of the file's bytes, hexadecimal.

        Raises:
            OSError: it cannot be read.
            ValueError: it became empty meanwhile.
        """
        return self._sha256.result()

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


_begun: dict[Path, TensorFile] = {}


def begin_reading(folder: Path) -> None:
    """Opens and begins to read the tensor file of a weights folder, for `open_tensors`."""
    with contextlib.suppress(OSError):  # which is said when the folder is loaded
        _begun[folder] = TensorFile(folder / TENSOR_FILE)


def open_tensors(folder: Path) -> TensorFile:
    """The tensor file of a weights folder, the one that `begin_reading` opened if it did.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    return _begun.pop(folder, None) or TensorFile(folder / TENSOR_FILE)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        return _sha256(file)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    if os.fstat(file.fileno()).st_size:  # nothing cannot be mapped
        # One call for the whole file: between two, a background thread waits while others import modules.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            content.madvise(mmap.MADV_WILLNEED)
            digest.update(content)
    return digest.hexdigest()
