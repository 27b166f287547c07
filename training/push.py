"""A weights folder, or an adapter's alone, to the Hugging Face hub, with its model card.

python -m training.push model/weights/mine OWNER/NAME             # private
python -m training.push model/weights/mine-adapter OWNER/NAME --public

Nothing but the files of `training.hub` is pushed. Whoever fetches it checks its tensors (`training.fetch`).
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi

from model.errors import UserError, WeightsError
from model.network.weights_config import read_config
from training.hub import ADAPTER_FILES, WEIGHTS_FILES, Address, HubError, check_tensors, hub_error, is_adapter

LICENSED = "dinov3"
"""In the name of a backbone whose weights may be passed on under their own licence only."""


def push(folder: Path, repo: str, api: HfApi, public: bool = False, with_backbone: bool = False) -> Address:
    """Pushes a folder as one commit; the repository is made when it is missing.

    Args:
        folder: a weights folder, or an adapter's.
        repo: OWNER/NAME.
        api: the hub.
        public: whether everybody may see it.
        with_backbone: push merged weights also where the backbone has a licence of its own.

    Returns:
        The address of the commit.

    Raises:
        UserError: the folder is incomplete or altered, its backbone is not the user's to pass on, the repository is
            public though that was not asked for, or the hub refuses.
    """
    adapter = is_adapter(folder)
    files = ADAPTER_FILES if adapter else WEIGHTS_FILES
    for name in files:
        if not (folder / name).is_file() and not (adapter and name == "metrics.json"):  # older ones lack it
            raise WeightsError(f"{folder} holds no {name}, without which nobody could judge or rebuild it; add it.")
    check_tensors(folder)
    config = read_config(folder)
    if LICENSED in config.network.backbone and not adapter and not with_backbone:
        raise WeightsError(
            f"{folder} holds Meta's DINOv3 weights, which may be passed on under their own licence only; push the "
            f"adapter's folder instead, or say --with-backbone and add that licence to the repository."
        )
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        if not public and not api.model_info(repo).private:
            raise HubError(f"{repo} is public already; say --public if everybody may see {folder}.")
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message=f"{config.name} {config.version}",
        )
    except HubError:
        raise
    except Exception as error:  # as many kinds as `hub_error` tells apart
        raise hub_error(error, Address(repo)) from error
    return Address(repo, commit.oid)


def main(arguments: Sequence[str] | None = None, api: HfApi | None = None) -> None:
    """Command line; another hub than the usual one is for tests."""
    parser = argparse.ArgumentParser(prog="python -m training.push", description="Push weights to the hub.")
    parser.add_argument("folder", type=Path, help="weights folder, or an adapter's")
    parser.add_argument("repo", metavar="OWNER/NAME", help="repository, made when missing")
    parser.add_argument("--public", action="store_true", help="let everybody see it (default: private)")
    parser.add_argument("--with-backbone", action="store_true", help="push merged DINOv3 weights, under their licence")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        address = push(parsed.folder, parsed.repo, api or HfApi(), parsed.public, parsed.with_backbone)
        print(f"Pushed {parsed.folder}. Others get it with `python -m training.fetch {address} DIR`.")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
