"""Files that are damaged, malicious or hold no cloud are named, and nothing in them is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
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

from tsloss_fast.analysis.analyze.sources import read_clouds
from tsloss_fast.analysis.analyze.tensor_files import DamagedSource, NoCloudError, SourceError
from tsloss_fast.analysis.table.table import open_table

READERS: list[Callable[[Path], object]] = [
    lambda path: list(read_clouds(path)),
    lambda path: open_table(path, None),
]


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


@pytest.mark.filterwarnings("ignore:.*damaged or cut off before its first row:UserWarning")
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


DENSE = "is nested, sparse, expanded or on the device meta: save a dense copy of it"
WITHOUT_NUMBERS: dict[str, tuple[str, Callable[[], object], str]] = {
    "sparse": (".pt", lambda: points().to_sparse(), DENSE),
    "meta": (".pt", lambda: points().to("meta"), DENSE),
    "nested": (".pt", lambda: torch.nested.nested_tensor([points()]), DENSE),
    "expanded": (".pt", lambda: torch.zeros(1).expand(2**31, 3), DENSE),
    "module": (
        ".pt",
        lambda: torch.nn.Linear(2, 2),
        r"Python objects \(torch\.nn.*Linear\).*never loaded.*state_dict",
    ),
    "batch of none": (
        ".npy",
        lambda: np.zeros((0, 4, 4)),
        r"\(0, 4, 4\)(, which is a batch of no)?",
    ),
    "objects": (".npy", lambda: np.array([[{}]]), "is damaged, or no .*Python objects"),
    "float4": (".safetensors", lambda: "F4", "'x' has the type F4; expected float16"),
    "float8": (".safetensors", lambda: "F8_E4M3", "as F8_E4M3, and .* scales.*convert the model"),
}


def safetensors_claiming(folder: Path, dtype: str, shape: tuple[int, ...], size: int) -> Path:
    header = {"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    path = folder / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\x11" * size)
    return path


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("kind", WITHOUT_NUMBERS)
@pytest.mark.parametrize("read", READERS, ids=["cloud", "table"])
def test_what_keeps_the_numbers_of_a_whole_file_from_being_read_is_said(
    read: Callable[[Path], object], kind: str, tmp_path: Path
) -> None:
    suffix, make, said = WITHOUT_NUMBERS[kind]
    path, thing = tmp_path / f"x{suffix}", make()
    if isinstance(thing, str):
        safetensors_claiming(tmp_path, thing, (4, 4), {"F4": 8, "F8_E4M3": 16}[thing])
    elif isinstance(thing, np.ndarray):
        np.save(path, thing, allow_pickle=True)
    else:
        torch.save(thing, path)
    with pytest.raises(SourceError, match=f"{path.name} .*{said}"):
        read(path)


def test_an_archive_under_the_name_of_an_array_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=points().numpy())
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    [cloud] = read_clouds(tmp_path / "x.npy")
    assert cloud.label == "a"
    assert torch.equal(open_table(tmp_path / "x.npy", "a").numbers(...), points())


@pytest.mark.parametrize("shape", [(2**31 - 1, 0), (0, 2**31 - 1), (2**31 - 1, 0, 0)])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors"])
def test_a_shape_without_numbers_claims_no_memory(
    suffix: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    if suffix == ".safetensors":
        path = safetensors_claiming(tmp_path, "F32", shape, 0)
    else:
        write(path := tmp_path / f"x{suffix}", torch.zeros(shape))
    for read in READERS:
        with pytest.raises(DamagedSource, match=f"x{suffix} claims a tensor of shape"):
            read(path)


def gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_header(tensors: int, fields: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, fields)


def gguf_array(kind: int, count: int) -> bytes:
    return gguf_text("key") + struct.pack("<IIQ", 9, kind, count)


def gguf_tensor(shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return gguf_text("token_embd.weight") + dims + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    "claim",
    {
        "fields": gguf_header(0, 2**60),
        "an array of bytes": gguf_header(0, 1) + gguf_array(0, 2**40),
        "a text": gguf_header(0, 1) + gguf_text("key") + struct.pack("<IQ", 8, 2**63),
        "elements": gguf_header(1, 0) + gguf_tensor((2**20, 2**20)),
        "elements beyond 64 bits": gguf_header(1, 0) + gguf_tensor((2**32, 2**32)),
        "no elements, many columns": gguf_header(1, 0) + gguf_tensor((2**40, 0)),
    }.items(),
    ids=lambda claim: claim[0],
)
def test_a_gguf_file_that_claims_more_than_it_holds_ends_at_once(
    claim: tuple[str, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason='pip install "tsloss-fast[tuning]"')
    (tmp_path / "x.gguf").write_bytes(claim[1] + bytes(4096))
    for read in READERS:
        with pytest.raises(DamagedSource, match=r"x\.gguf"):
            read(tmp_path / "x.gguf")


def test_a_gguf_file_cut_anywhere_is_named(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason='pip install "tsloss-fast[tuning]"')
    writer = gguf.GGUFWriter(path := tmp_path / "x.gguf", "llama")
    writer.add_token_list([f"token {index}" for index in range(20)])
    writer.add_token_types([1] * 20)
    writer.add_tensor("token_embd.weight", points(20, 8).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedSource, match=r"x\.gguf is damaged, or no"):
            list(read_clouds(path))


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


PROMPT = {"peft_type": "PROMPT_TUNING"}
PREFIX = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "num_layers": 2, "token_dim": 8}


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        ("{", {}, "adapter_config.json is damaged"),
        ([], {}, "adapter_config.json is damaged"),
        (PROMPT, None, "no adapter_model.safetensors"),
        (PROMPT, {"a": points()}, "no tensor is called 'prompt_embeddings'"),
        (
            PROMPT | {"num_virtual_tokens": -1},
            {"prompt_embeddings": points()},
            "safetensors is damaged, or no file of weights that fits its adapter_config.json",
        ),
        (
            PREFIX,
            {"prompt_embeddings": points(4, 36)},
            r"fits its adapter_config.json .*\[4, 4, 8\]",
        ),
        (
            {"peft_type": "MULTITASK_PROMPT_TUNING"},
            {"prompt_embeddings": points()},
            r"safetensors is damaged, or no file of weights that fits .*prefix_task_cols",
        ),
        ({"peft_type": "LORA"}, {"q.lora_A.weight": points(2, 3)}, "no virtual tokens.*--key"),
    ],
)
def test_adapters_of_a_wrong_shape_or_without_weights_are_named(
    config: object, tensors: dict[str, torch.Tensor] | None, said: str, tmp_path: Path
) -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / "adapter_config.json").write_text(text)
    if tensors is not None:
        save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(SourceError, match=said):
        list(read_clouds(tmp_path))
