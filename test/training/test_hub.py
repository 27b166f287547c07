"""Weights to the hub and back, with a hub in a folder instead of the network."""

import fnmatch
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import httpx2
import numpy as np
import pytest
from helpers import config_for
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file

import process
from model.errors import WeightsError
from model.network.weights_folder import file_sha256
from model.predictor import Predictor
from training import evaluate, fetch, push, recalibrate
from training.hub import Address, HubError, parse_address
from training.network.classifier import build_network
from training.network.pretrained import load_first_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FolderHub:
    """What of `HfApi` is used, with its signatures, on a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.private, self.commit = root, {}, COMMIT
        self.api: Any = create_autospec(HfApi, instance=True)
        self.api.create_repo.side_effect = self.create_repo
        self.api.model_info.side_effect = self.model_info
        self.api.upload_folder.side_effect = self.upload_folder
        self.api.snapshot_download.side_effect = self.snapshot_download

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.private.setdefault(repo_id, private)

    def model_info(self, repo_id: str, *, revision: str | None = None) -> SimpleNamespace:
        if repo_id not in self.private:
            raise http_error(RepositoryNotFoundError, 404)
        if revision not in (None, "main", self.commit):
            raise http_error(RevisionNotFoundError, 404)
        return SimpleNamespace(sha=self.commit, private=self.private[repo_id])

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], commit_message: str
    ) -> SimpleNamespace:
        self.copy(folder_path, self.root / repo_id, allow_patterns)
        return SimpleNamespace(oid=self.commit)

    def snapshot_download(self, repo_id: str, *, revision: str, local_dir: Path, allow_patterns: list[str]) -> str:
        assert revision == self.commit
        self.copy(self.root / repo_id, local_dir, allow_patterns)
        (local_dir / ".cache" / "huggingface").mkdir(parents=True)
        return str(local_dir)

    @staticmethod
    def copy(source: Path, target: Path, allow_patterns: list[str]) -> None:
        target.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, target / file.name)


def http_error(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    request = httpx2.Request("GET", "https://huggingface.co/api")
    return kind(f"{status} Client Error", response=httpx2.Response(status, request=request))


@pytest.fixture
def hub(tmp_path: Path) -> FolderHub:
    return FolderHub(tmp_path / "hub")


@pytest.fixture
def complete(small_weights: Path, tmp_path: Path) -> Path:
    """A weights folder with all that training writes, and something that is not to be pushed."""
    folder = Path(shutil.copytree(small_weights, tmp_path / "complete"))
    for name in ("README.md", "metrics.json", "training.yaml", "training.log", "secret.txt", "model.pth"):
        (folder / name).write_text(name)
    return folder


def test_what_is_pushed_comes_back_the_same(
    complete: Path, hub: FolderHub, tmp_path: Path, crops: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    push.main([str(complete), "lab/mine"], hub.api)
    assert hub.private == {"lab/mine": True}
    assert f"python -m training.fetch hf:lab/mine@{COMMIT} DIR" in capsys.readouterr().out
    pushed = sorted(file.name for file in (hub.root / "lab/mine").iterdir())
    assert pushed == ["README.md", "config.json", "metrics.json", "model.safetensors", "training.yaml"]
    (hub.root / "lab/mine" / "pickle.bin").write_text("not fetched")
    fetch.main(["hf:lab/mine", str(tmp_path / "fetched")], hub.api)
    printed = capsys.readouterr().out
    assert f"Fetched hf:lab/mine@{COMMIT}" in printed and f"--weights {tmp_path / 'fetched'}" in printed
    assert sorted(file.name for file in (tmp_path / "fetched").iterdir()) == pushed
    answers = [Predictor(folder, "cpu")(crops) for folder in (complete, tmp_path / "fetched")]
    np.testing.assert_array_equal(*answers)
    assert not list(tmp_path.glob(".*"))


def test_an_adapter_travels_alone(complete: Path, hub: FolderHub, tmp_path: Path) -> None:
    (complete / "model.safetensors").rename(complete / "adapter.safetensors")
    push.main([str(complete), "lab/adapter", "--public"], hub.api)
    assert hub.private == {"lab/adapter": False}
    fetch.main([f"hf:lab/adapter@{COMMIT}", str(tmp_path / "fetched")], hub.api)
    names = {file.name for file in (tmp_path / "fetched").iterdir()}
    assert names == {"README.md", "adapter.safetensors", "config.json", "metrics.json", "training.yaml"}
    said = fetch.how_to_go_on(tmp_path / "fetched")
    assert "adapter for test_efficientnet" in said and "training.merge" in said


def test_an_adapter_of_an_earlier_version_travels_without_figures(complete: Path, hub: FolderHub) -> None:
    (complete / "model.safetensors").rename(complete / "adapter.safetensors")
    (complete / "metrics.json").unlink()
    push.main([str(complete), "lab/adapter"], hub.api)
    assert "metrics.json" not in {file.name for file in (hub.root / "lab/adapter").iterdir()}


def test_incomplete_altered_and_licensed_folders_are_not_pushed(complete: Path, hub: FolderHub, tmp_path: Path) -> None:
    def refused(folder: Path, sentence: str, *arguments: str) -> None:
        with pytest.raises(SystemExit, match=sentence):
            push.main([str(folder), "lab/mine", *arguments], hub.api)
        assert not hub.api.upload_folder.called

    refused(tmp_path / "nowhere", "holds neither of model.safetensors and adapter.safetensors")
    (complete / "README.md").rename(tmp_path / "card")
    refused(complete, r"holds no README\.md")
    (tmp_path / "card").rename(complete / "README.md")
    hub.private["lab/mine"] = False
    refused(complete, "lab/mine is public already; say --public")
    content = json.loads((complete / "config.json").read_text())
    licensed = content | {"network": content["network"] | {"backbone": "vit_huge_plus_patch16_dinov3"}}
    (complete / "config.json").write_text(json.dumps(licensed))
    refused(complete, "holds Meta's DINOv3 weights, .* push the adapter's folder", "--public")
    (complete / "config.json").write_text(json.dumps(content | {"sha256": "0" * 64}))
    refused(complete, "was altered")


def test_altered_weights_and_ones_that_do_not_load_are_not_put_in_place(
    complete: Path, hub: FolderHub, tmp_path: Path
) -> None:
    push.main([str(complete), "lab/mine"], hub.api)
    stored = hub.root / "lab/mine"

    def refused(sentence: str) -> None:
        with pytest.raises(SystemExit, match=sentence):
            fetch.main(["hf:lab/mine", str(tmp_path / "fetched")], hub.api)
        assert not (tmp_path / "fetched").exists() and not list(tmp_path.glob(".*"))

    content = (stored / "model.safetensors").read_bytes()
    (stored / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(f"hf:lab/mine@{COMMIT} cannot be used: lab/mine/model.safetensors was altered")
    tensors = load_file(complete / "model.safetensors")
    tensors.pop("head.bias")
    save_file(tensors, stored / "model.safetensors")
    config = json.loads((stored / "config.json").read_text())
    config["sha256"] = file_sha256(stored / "model.safetensors")
    (stored / "config.json").write_text(json.dumps(config))
    refused("does not fit the architecture")
    (stored / "model.safetensors").unlink()
    refused("holds neither of")
    (tmp_path / "there").mkdir()
    with pytest.raises(SystemExit, match="is there already"):
        fetch.main(["hf:lab/mine", str(tmp_path / "there")], hub.api)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (http_error(GatedRepoError, 403), "hf:lab/mine@v1 is gated: accept its licence on https://huggingface.co/lab/"),
        (http_error(RepositoryNotFoundError, 404), "There is no lab/mine on the hub, or it is private"),
        (http_error(RevisionNotFoundError, 404), "lab/mine has no revision v1"),
        (http_error(HfHubHTTPError, 403), "The hub does not let you do this with lab/mine; `hf auth login`"),
        (http_error(HfHubHTTPError, 500), r"The hub was not reached .*\(500 Client Error"),
        (LocalTokenNotFoundError("no token"), "run `hf auth login`"),
        (HFValidationError("too many dots"), "lab/mine is no name of a repository"),
        (OfflineModeIsEnabled("offline"), r"was not reached for hf:lab/mine@v1 \(offline\); check the network"),
        (httpx2.ConnectError("Name or service not known"), "not reached .* check the network, and HF_HUB_OFFLINE"),
    ],
)
def test_what_the_hub_says_is_a_sentence(
    complete: Path, hub: FolderHub, tmp_path: Path, error: Exception, sentence: str
) -> None:
    hub.api.model_info.side_effect = error
    with pytest.raises(SystemExit, match=sentence):
        fetch.main(["hf:lab/mine@v1", str(tmp_path / "fetched")], hub.api)
    hub.api.create_repo.side_effect = error
    with pytest.raises(SystemExit, match=sentence.replace("@v1", "").replace("revision v1", "revision")):
        push.main([str(complete), "lab/mine"], hub.api)


def test_the_real_client_without_a_network_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit, match="not reached for hf:lab/mine"):
        fetch.main(["hf:lab/mine", str(tmp_path / "fetched")])


def test_addresses() -> None:
    assert parse_address("hf:lab/mine") == Address("lab/mine")
    assert parse_address("hf:lab/mine@v1.0") == Address("lab/mine", "v1.0")
    for text in ("lab/mine", "hf:mine", "hf:lab/mine@", "hf:../mine/x", "hub:lab/mine"):
        with pytest.raises(HubError, match="is no address on the hub"):
            parse_address(text)


def test_the_container_says_how_to_fetch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert process.main(["--input", "test/input", "--output", str(tmp_path), "--weights", "hf:lab/mine@v1"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "run `python -m training.fetch hf:lab/mine@v1 DIR`" in last and not list(tmp_path.iterdir())


def test_training_says_it_too(tmp_path: Path, data: Path) -> None:
    for command in (evaluate.main, recalibrate.main):
        with pytest.raises(SystemExit, match=r"hf:lab/mine is on the hub, .* training\.fetch hf:lab/mine DIR"):
            command(["hf:lab/mine", f"data.root={data}", "--output", str(tmp_path / "out")])
    config = config_for(data, tmp_path, "network.pretrained=weights:hf:lab/mine")
    with pytest.raises(WeightsError, match="is on the hub"):
        load_first_weights(build_network(config), config)
