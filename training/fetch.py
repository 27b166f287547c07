"""Weights from the Hugging Face hub, checked, into a folder that the container runs.

python -m training.fetch hf:OWNER/NAME[@REVISION] DIR

The container itself has no network and fetches nothing. Of an adapter it fetches the adapter alone, and says how to
merge it into a backbone (docs/sharing.md).
"""

import argparse
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi

from model.errors import UserError, WeightsError
from model.network.weights import load
from model.network.weights_config import read_config
from training.hub import (
    ADAPTER_FILES,
    WEIGHTS_FILES,
    Address,
    HubError,
    check_tensors,
    hub_error,
    is_adapter,
    parse_address,
)


def fetch(address: Address, folder: Path, api: HfApi) -> Address:
    """Downloads a weights folder, or an adapter's, and checks it before it is put in its place.

    Args:
        address: where it is.
        folder: where it goes; must not be there yet.
        api: the hub.

    Returns:
        The address with the commit that was fetched, which gives the same files for ever.

    Raises:
        UserError: the hub does not give it, a tensor is not what config.json says, or the weights do not load.
    """
    if folder.exists():
        raise WeightsError(f"{folder} is there already; give another folder.")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        try:
            commit = api.model_info(address.repo, revision=address.revision).sha
            pinned = Address(address.repo, commit)
            files = sorted({*WEIGHTS_FILES, *ADAPTER_FILES})
            api.snapshot_download(address.repo, revision=commit, local_dir=partial, allow_patterns=files)
        except Exception as error:  # as many kinds as `hub_error` tells apart
            raise hub_error(error, address) from error
        shutil.rmtree(partial / ".cache", ignore_errors=True)  # the client's notes
        try:
            check_tensors(partial)
            if not is_adapter(partial):
                load(partial)
        except WeightsError as error:
            raise HubError(f"{pinned} cannot be used: {str(error).replace(str(partial), address.repo)}") from error
        partial.rename(folder)
    except OSError as error:
        raise WeightsError(f"{folder} cannot be written ({error.strerror}); give another folder.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return pinned


def how_to_go_on(folder: Path) -> str:
    """What to do with a fetched folder."""
    if not is_adapter(folder):
        return f"Run it with --weights {folder}."
    return (
        f"It is an adapter for {read_config(folder).network.backbone}: merge it with `python -m training.merge "
        f"--backbone hub:NAME --adapter {folder} --output DIR` (docs/sharing.md)."
    )


def main(arguments: Sequence[str] | None = None, api: HfApi | None = None) -> None:
    """Command line; another hub than the usual one is for tests."""
    parser = argparse.ArgumentParser(prog="python -m training.fetch", description="Fetch weights from the hub.")
    parser.add_argument("address", help="hf:OWNER/NAME, or hf:OWNER/NAME@REVISION")
    parser.add_argument("folder", type=Path, metavar="DIR", help="weights folder to write")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        pinned = fetch(parse_address(parsed.address), parsed.folder, api or HfApi())
        print(f"Fetched {pinned} into {parsed.folder}. {how_to_go_on(parsed.folder)}")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
