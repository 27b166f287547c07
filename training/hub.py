"""What pushing to the Hugging Face hub and fetching from it have in common: addresses, files, errors."""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from model.errors import UserError, WeightsError, first_line
from model.network.weights_config import read_config
from model.network.weights_folder import CONFIG_FILE, TENSOR_FILE, file_sha256
from training.weights import ADAPTER_FILE

WEIGHTS_FILES = (CONFIG_FILE, TENSOR_FILE, "README.md", "metrics.json", "training.yaml")
ADAPTER_FILES = (CONFIG_FILE, ADAPTER_FILE, "README.md", "metrics.json", "training.yaml")
"""What of a weights folder, and of an adapter's, travels; no log, and nothing that unpickles."""

_ADDRESS = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


class HubError(UserError):
    """The hub does not do what it was asked for."""


@dataclass(frozen=True)
class Address:
    """Where weights are on the hub.

    Attributes:
        repo: OWNER/NAME.
        revision: branch, tag or commit; None for the newest.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf:{self.repo}" + (f"@{self.revision}" if self.revision else "")


def parse_address(text: str) -> Address:
    """`hf:OWNER/NAME`, with `@REVISION` where it is pinned.

    Raises:
        HubError: it is no such address.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise HubError(f"'{text}' is no address on the hub; write hf:OWNER/NAME or hf:OWNER/NAME@REVISION.")
    return Address(match["repo"], match["revision"])


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter's instead of a weights folder.

    Raises:
        WeightsError: it is neither.
    """
    adapter, weights = ((folder / name).is_file() for name in (ADAPTER_FILE, TENSOR_FILE))
    if adapter == weights:
        what = "both" if adapter else "neither"
        raise WeightsError(
            f"{folder} holds {what} of {TENSOR_FILE} and {ADAPTER_FILE}; give a weights folder, or an adapter's folder "
            "that training writes beside it."
        )
    return adapter


def check_tensors(folder: Path) -> None:
    """Compares the tensor file with what config.json says of it.

    Raises:
        WeightsError: config.json cannot be read, or the SHA-256 differs.
    """
    path = folder / (ADAPTER_FILE if is_adapter(folder) else TENSOR_FILE)
    try:
        found = file_sha256(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); copy it again.") from error
    if found != read_config(folder).sha256:
        raise WeightsError(f"{path} was altered: its SHA-256 is not the one in {CONFIG_FILE}; copy it again.")


def hub_error(error: Exception, address: Address) -> HubError:
    """What an exception of the hub's client means to the user; it raises a dozen kinds, those of its network library
    among them."""
    reason = first_line(error)
    page = f"https://huggingface.co/{address.repo}"
    match error:
        case GatedRepoError():
            return HubError(f"{address} is gated: accept its licence on {page}, then run `hf auth login`.")
        case RevisionNotFoundError():
            return HubError(f"{address.repo} has no revision {address.revision}; look at {page}/commits/main.")
        case RepositoryNotFoundError():
            return HubError(f"There is no {address.repo} on the hub, or it is private; `hf auth login` if it is yours.")
        case LocalTokenNotFoundError():
            return HubError("The hub asks who you are; run `hf auth login`.")
        case HFValidationError():
            return HubError(f"{address.repo} is no name of a repository ({reason}); write OWNER/NAME.")
        case HfHubHTTPError() if error.response is not None and error.response.status_code in (401, 403):
            return HubError(
                f"The hub does not let you do this with {address.repo}; `hf auth login` with a token that may."
            )
        case _:
            return HubError(f"The hub was not reached for {address} ({reason}); check the network, and HF_HUB_OFFLINE.")
