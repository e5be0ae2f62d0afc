"""Files that are damaged, malicious or hold no cloud are named, and nothing in them is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pyarrow", reason='pip install "tsloss-fast[analysis]"')
pytest.importorskip("safetensors")

from safetensors.torch import save_file
from saved_points import points, write, write_record

from tsloss_fast.analysis.saved.sources import DamagedSource, NoCloudError, SourceError, read_clouds


class Malicious:
    """Unpickled, it makes a file."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.evidence),)


def malicious_files(folder: Path, evidence: Path) -> list[Path]:
    trap = Malicious(evidence)
    array = np.empty((2, 2), dtype=object)
    array[:] = trap
    np.save(folder / "object.npy", array, allow_pickle=True)
    np.savez(folder / "object.npz", prompt=array)
    (folder / "plain.npy").write_bytes(pickle.dumps(trap))
    (folder / "plain.pt").write_bytes(pickle.dumps(trap))
    torch.save(trap, folder / "zip.pt")
    torch.save({"prompt": points(), "trap": trap}, folder / "beside.pt")
    torch.save(trap, folder / "old.pth", _use_new_zipfile_serialization=False)
    return sorted(folder.iterdir())


def test_pickled_code_is_never_executed(tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    traps = tmp_path / "traps"
    traps.mkdir()
    files = malicious_files(traps, evidence)
    assert len(files) == 7
    for path in files:
        with pytest.raises(SourceError, match=path.name):
            list(read_clouds(path, "*"))
        assert not evidence.exists(), path
    # The trap does work, for whoever loads it.
    np.load(traps / "object.npy", allow_pickle=True)
    assert evidence.exists()


def whole_files(folder: Path) -> list[Path]:
    write_record(folder / "topology.arrows", [points(200, 8)])
    for name in ("x.pt", "x.npy", "x.npz", "x.safetensors"):
        write(folder / name, points(200, 8))
    return sorted(folder.iterdir())


@pytest.mark.filterwarnings("ignore:.*half a record:UserWarning")
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9])
def test_a_file_cut_anywhere_is_named(share: float, tmp_path: Path) -> None:
    for path in whole_files(tmp_path):
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        # Of a record what is whole is read, here nothing.
        kind = SourceError if path.suffix == ".arrows" else DamagedSource
        with pytest.raises(kind, match=path.name):
            list(read_clouds(path))


@pytest.mark.parametrize("garbage", [b"garbage", bytes(1000), b"\x93NUMPY" + b"\xff" * 100])
def test_garbage_of_any_name_is_named(garbage: bytes, tmp_path: Path) -> None:
    for path in whole_files(tmp_path):
        path.write_bytes(garbage)
        with pytest.raises(DamagedSource, match=path.name) as caught:
            list(read_clouds(path))
        # Both libraries go on to recommend what must not be done.
        assert "weights_only=False" not in str(caught.value)
        assert "allow_pickle=True" not in str(caught.value)


@pytest.mark.parametrize(
    "thing",
    [torch.arange(6).reshape(2, 3), torch.zeros(4), torch.zeros(1, 1, 2, 2), [1.0], {"a": 1}, None],
)
def test_whole_files_without_a_cloud_say_what_they_hold(thing: object, tmp_path: Path) -> None:
    torch.save(thing, tmp_path / "x.pt")
    with pytest.raises(NoCloudError, match=r"x\.pt holds"):
        list(read_clouds(tmp_path / "x.pt"))


def test_arrays_that_torch_has_no_type_for_are_no_clouds(tmp_path: Path) -> None:
    for array in (np.zeros((2, 2), np.longdouble), np.zeros((2, 2), "U3"), np.zeros((2, 2), int)):
        np.save(tmp_path / "x.npy", array)
        np.savez(tmp_path / "x.npz", array=array)
        for name in ("x.npy", "x.npz"):
            with pytest.raises(NoCloudError, match=name):
                list(read_clouds(tmp_path / name))


def test_an_archive_that_claims_more_than_it_holds_is_named(tmp_path: Path) -> None:
    header = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (10**7, 10**6)}
    np.lib.format.write_array_header_1_0(header, claim)
    (tmp_path / "x.npy").write_bytes(header.getvalue())
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    for name in ("x.npy", "x.npz"):
        with pytest.raises(SourceError, match=name):
            list(read_clouds(tmp_path / name))


def test_adapters_of_a_wrong_shape_or_without_weights_are_named(tmp_path: Path) -> None:
    def adapter(config: object, tensors: dict[str, torch.Tensor] | None) -> Path:
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "adapter_config.json").write_text(text)
        (folder / "adapter_model.safetensors").unlink(missing_ok=True)
        if tensors is not None:
            save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    prefix = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "num_layers": 2}
    for config, tensors, message in (
        ("{", {}, "adapter_config.json is damaged"),
        ("[]", {}, "adapter_config.json is damaged"),
        ({"peft_type": "PROMPT_TUNING"}, None, "no adapter_model.safetensors"),
        ({"peft_type": "PROMPT_TUNING"}, {"a": points()}, "keeps a tensor prompt_embeddings"),
        (
            prefix | {"token_dim": 8},
            {"prompt_embeddings": points(4, 2 * 2 * 9)},
            r"4 tokens of 2 × 2 layers × 8",
        ),
        ({"peft_type": "LORA"}, {"q.lora_A.weight": points(2, 3)}, "no virtual tokens.*--key"),
    ):
        with pytest.raises(SourceError, match=message):
            list(read_clouds(adapter(config, tensors)))
    folder = adapter({"peft_type": "PROMPT_TUNING"}, {"prompt_embeddings": points(100, 8)})
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(DamagedSource, match="adapter is damaged"):
        list(read_clouds(folder))
