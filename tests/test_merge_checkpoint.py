"""Reading a base LM's files: the right values, no byte too many, and a clear word on what is broken."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from lmms_plam.errors import CheckpointError, ConfigError
from lmms_plam.merge import Checkpoint

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layers.{layer}.{name}": torch.randn(shape, generator=generator).to(dtype)
        for layer in range(2)
        for name, shape, dtype in [
            ("q", (6, 5), torch.bfloat16),
            ("bias", (7,), torch.float16),
            ("o", (4, 3), torch.float32),
        ]
    }


def write_single(folder: Path, content) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_sharded(folder: Path, content) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    files = {key: SHARDS[key.startswith("layers.1")] for key in content}
    for shard in SHARDS:
        save_file({key: value for key, value in content.items() if files[key] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def write_pickled(folder: Path, content) -> Path:
    folder.mkdir()
    torch.save(content, folder / "pytorch_model.bin")
    return folder


def write_pickled_shards(folder: Path, content) -> Path:
    folder.mkdir()
    files = {key: f"pytorch_model-0000{1 + key.startswith('layers.1')}-of-00002.bin" for key in content}
    for shard in set(files.values()):
        torch.save({key: value for key, value in content.items() if files[key] == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


@pytest.mark.parametrize("write", [write_single, write_sharded, write_pickled, write_pickled_shards])
def test_every_layout_gives_the_stored_rows_shapes_and_dtypes(tmp_path, write):
    content = tensors()
    with Checkpoint(str(write(tmp_path / "lm", content))) as source:
        assert set(source.files) == set(content)
        for key, value in content.items():
            assert source.describe(key).shape == value.shape
            for start, stop in [(0, len(value)), (1, 3), (2, 2)]:
                rows = source.rows(key, start, stop)
                assert rows.dtype == value.dtype
                assert torch.equal(rows, value[start:stop])


def test_only_headers_and_the_rows_asked_for_are_read(tmp_path):
    folder = write_sharded(tmp_path / "lm", tensors())
    header = int.from_bytes((folder / SHARDS[1]).read_bytes()[:8], "little")
    with Checkpoint(str(folder)) as source:
        assert source.bytes_read == 0
        source.describe("layers.1.q")
        assert source.bytes_read == 8 + header  # of the shard that holds it; the other is not even opened
        source.rows("layers.1.q", 2, 5)
        assert source.bytes_read == 8 + header + 3 * 5 * 2


def test_a_shard_that_is_not_needed_may_be_missing(tmp_path):
    folder = write_sharded(tmp_path / "lm", tensors())
    (folder / SHARDS[0]).unlink()
    with Checkpoint(str(folder)) as source:
        assert torch.equal(source.rows("layers.1.o", 0, 4), tensors()["layers.1.o"])
        with pytest.raises(CheckpointError, match=rf"has no {SHARDS[0]}, needed for 'layers.0.o'"):
            source.rows("layers.0.o", 0, 4)


def test_safetensors_are_preferred_to_pickled_weights(tmp_path):
    folder = write_single(tmp_path / "lm", tensors())
    torch.save(tensors(seed=1), folder / "pytorch_model.bin")
    with Checkpoint(str(folder)) as source:
        assert torch.equal(source.rows("layers.1.o", 0, 4), tensors()["layers.1.o"])


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused_by_name_before_any_tensor_is_read(tmp_path, keep):
    path = write_single(tmp_path / "lm", tensors()) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with (
        Checkpoint(str(path.parent)) as source,
        pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"),
    ):
        source.files  # noqa: B018


def test_a_damaged_header_is_refused(tmp_path):
    path = write_single(tmp_path / "lm", tensors()) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:12] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with Checkpoint(str(path.parent)) as source, pytest.raises(CheckpointError, match=r"header of .* is damaged"):
        source.files  # noqa: B018


def test_a_file_cut_while_it_is_open_is_refused(tmp_path):
    path = write_single(tmp_path / "lm", tensors()) / "model.safetensors"
    with Checkpoint(str(path.parent)) as source:
        assert source.describe("layers.0.q").shape == (6, 5)
        with path.open("r+b") as file:
            file.truncate(source.bytes_read)
        with pytest.raises(CheckpointError, match=r"ends before 'layers\.0\.q' does"):
            source.rows("layers.0.q", 0, 6)


def test_an_index_that_names_the_wrong_shard_is_refused(tmp_path):
    folder = write_sharded(tmp_path / "lm", tensors())
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(f'"layers.1.o": "{SHARDS[1]}"', f'"layers.1.o": "{SHARDS[0]}"'))
    with Checkpoint(str(folder)) as source, pytest.raises(CheckpointError, match=r"00001.* doesn't hold 'layers.1.o'"):
        source.describe("layers.1.o")


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is damaged"), ("[]", "object"), ("{}", "weight_map: Field required")]
)
def test_a_broken_index_is_refused(tmp_path, content, message):
    folder = write_sharded(tmp_path / "lm", tensors())
    (folder / "model.safetensors.index.json").write_text(content)
    with Checkpoint(str(folder)) as source, pytest.raises(CheckpointError, match=message):
        source.files  # noqa: B018


def test_a_folder_without_weights_or_config_is_refused(tmp_path):
    with Checkpoint(str(tmp_path)) as source:
        with pytest.raises(CheckpointError, match="found no weights"):
            source.files  # noqa: B018
        with pytest.raises(CheckpointError, match=r"has no config\.json"):
            source.config  # noqa: B018


class Malicious:
    """Unpickled without care, it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_never_runs_code(tmp_path):
    folder = write_pickled(tmp_path / "lm", {"layers.0.q": torch.ones(2), "x": Malicious(tmp_path / "ran")})
    with Checkpoint(str(folder)) as source, pytest.raises(CheckpointError, match="holds more than tensors"):
        source.files  # noqa: B018
    assert not (tmp_path / "ran").exists()


def test_a_truncated_pickle_is_refused(tmp_path):
    path = write_pickled(tmp_path / "lm", tensors()) / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-300])
    with (
        Checkpoint(str(path.parent)) as source,
        pytest.raises(CheckpointError, match=r"pytorch_model\.bin .*truncated"),
    ):
        source.files  # noqa: B018


def test_of_a_hub_model_only_the_shards_that_hold_needed_tensors_are_fetched(tmp_path, hub):
    content = tensors()
    hub.push("someone/lm", write_sharded(tmp_path / "lm", content), "v2")
    with Checkpoint("someone/lm", revision="v2") as source:
        assert source.config == {"model_type": "llama"}
        for key in ("layers.1.q", "layers.1.o"):
            assert torch.equal(source.rows(key, 0, len(content[key])), content[key])
    assert sorted(hub.fetched) == ["config.json", SHARDS[1], "model.safetensors.index.json"]


def test_a_hub_model_stays_at_the_commit_of_its_first_file(tmp_path, hub):
    folder = write_single(tmp_path / "lm", tensors())
    commit = hub.push("someone/lm", folder)
    with Checkpoint("someone/lm") as source:
        assert source.config == {"model_type": "llama"}
        save_file(tensors(seed=1), folder / "model.safetensors")
        hub.push("someone/lm", folder)
        assert torch.equal(source.rows("layers.1.o", 0, 4), tensors()["layers.1.o"])
        assert source.place.commit == commit
    with Checkpoint("someone/lm") as later:
        assert torch.equal(later.rows("layers.1.o", 0, 4), tensors(seed=1)["layers.1.o"])


def test_what_others_fetched_of_a_model_is_read_offline(tmp_path, hub, monkeypatch):
    folder = write_single(tmp_path / "lm", tensors())
    (folder / "README.md").write_text("not fetched by most")
    hub.push("someone/lm", folder)
    for name in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download("someone/lm", name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with Checkpoint("someone/lm") as source:
        assert torch.equal(source.rows("layers.1.o", 0, 4), tensors()["layers.1.o"])


def test_what_was_fetched_once_is_read_offline(tmp_path, hub, monkeypatch):
    commit = hub.push("someone/lm", write_single(tmp_path / "lm", tensors()))
    Checkpoint("someone/lm").fetch()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with Checkpoint("someone/lm") as source:
        assert torch.equal(source.rows("layers.1.o", 0, 4), tensors()["layers.1.o"])
        assert source.place.commit == commit


def test_a_file_that_cant_be_reached_is_not_taken_for_one_that_isnt_there(tmp_path, hub, monkeypatch):
    folder = write_sharded(tmp_path / "lm", tensors(seed=1))
    save_file(tensors(), folder / "model.safetensors")
    hub.push("someone/lm", folder)
    with Checkpoint("someone/lm") as source:
        assert source.config
        unreachable = LocalEntryNotFoundError("no connection")
        monkeypatch.setattr("lmms_plam.merge.model_files.hf_hub_download", Mock(side_effect=unreachable))
        with pytest.raises(
            CheckpointError, match=r"model\.safetensors of 'someone/lm' can't be fetched: no connection"
        ):
            source.files  # noqa: B018


def test_a_revision_of_a_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is a folder, and only models on the hub have a revision"):
        Checkpoint(str(tmp_path), "v2")


def test_a_full_disk_while_fetching_is_one_clear_sentence(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lmms_plam.merge.model_files.snapshot_download", full)
    with Checkpoint("someone/lm") as source, pytest.raises(CheckpointError, match=r"'someone/lm' .*No space left"):
        source.config  # noqa: B018


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("someone/not-in-the-cache", "is no folder in .*, and can't be fetched from the hub: "),
        ("/no/such/folder", "is no folder$"),
    ],
)
def test_offline_or_misspelt_references_are_named(reference, said, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with Checkpoint(reference) as source, pytest.raises(CheckpointError, match=rf"^'{reference}' {said}"):
        source.config  # noqa: B018


def test_a_tensor_that_its_place_in_the_file_is_too_small_for_is_refused(tmp_path):
    path = write_single(tmp_path / "lm", tensors()) / "model.safetensors"
    content = path.read_bytes()
    assert content.count(b'"shape":[6,5]') == 2
    path.write_bytes(content.replace(b'"shape":[6,5]', b'"shape":[7,5]', 1))  # its last row would be another's
    with Checkpoint(str(path.parent)) as source, pytest.raises(CheckpointError, match=r"layers\.\d\.q' has no room"):
        source.describe("layers.0.q")
