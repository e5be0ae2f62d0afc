"""Every format gives the points that were put into it, in order; damaged files are named."""

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
safetensors = pytest.importorskip("safetensors.torch")

import pyarrow as pa  # noqa: E402

from tsloss_fast.analysis.columns import CloudColumns  # noqa: E402
from tsloss_fast.analysis.record import RECORD, RecordWriter, read_record  # noqa: E402
from tsloss_fast.analysis.saved.sources import (  # noqa: E402
    DamagedSource,
    NoCloudError,
    SourceError,
    find_sources,
    read_clouds,
)

SAVED = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def points(n: int = 5, d: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def write_record(path: Path, clouds: list[torch.Tensor], keep_every: int = 1) -> Path:
    """Two clouds a step, `a` and its double `b`; the points at every `keep_every`-th step."""
    writer = RecordWriter(path, {"clouds": ["a", "b"], "metric": "euclidean"})
    for step, cloud in enumerate(clouds):
        kept = step % keep_every == 0
        rows = []
        for index, x in enumerate((cloud, 2 * cloud)):
            row = {"step": 10 * step, "cloud": index, "n_points": len(x), "n_features": x.shape[1]}
            flat = x.double().flatten().tolist() if kept else None
            rows.append(row | {"dimension": 0, "points": flat})
        writer.write(rows)
    writer.close()
    return path


def test_a_record_gives_each_cloud_at_the_steps_that_kept_its_points(tmp_path: Path) -> None:
    clouds = [points(seed=s) for s in range(5)]
    path = write_record(tmp_path / RECORD, clouds, keep_every=2)
    read = list(read_clouds(path))
    assert [(c.label, c.step) for c in read] == [(x, s) for x in "ab" for s in (0, 20, 40)]
    for cloud, original in zip(read[3:], clouds[::2], strict=True):
        assert cloud.points.dtype == torch.float64
        assert torch.equal(cloud.points, 2 * original.double())
        assert cloud.source == path


def test_half_a_record_at_the_end_is_left_out_with_a_warning(tmp_path: Path) -> None:
    path = write_record(tmp_path / RECORD, [points(seed=s) for s in range(3)])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.warns(UserWarning, match="half a record"):
        assert [c.step for c in read_clouds(path)] == [0, 10, 0, 10]


def test_a_record_without_points_says_so(tmp_path: Path) -> None:
    writer = RecordWriter(path := tmp_path / RECORD, {})
    writer.write([{"step": 1, "cloud": 0, "dimension": 0, "n_points": 2, "n_features": 3}])
    writer.close()
    with pytest.raises(NoCloudError, match="keeps no points"):
        list(read_clouds(path))


def test_a_record_of_another_metric_is_read_with_a_warning(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / RECORD, {"metric": "cosine"})
    writer.write([{"step": 1, "cloud": 0, "dimension": 0, "n_points": 1, "n_features": 1,
                   "points": [1.0]}])  # fmt: skip
    writer.close()
    with pytest.warns(UserWarning, match="cosine"):
        assert len(list(read_clouds(tmp_path))) == 1


@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (suffix, dtype)
        for suffix in (".pt", ".pth", ".safetensors", ".npy", ".npz")
        for dtype in sorted(SAVED, key=str)
        # NumPy has no bfloat16.
        if not (suffix.startswith(".np") and dtype == torch.bfloat16)
    ],
)
def test_tensor_files_keep_float64_and_convert_halves_to_float32(
    suffix: str, batch: int | None, dtype: torch.dtype, tmp_path: Path
) -> None:
    tensor = torch.stack([points(seed=s) for s in range(batch or 1)]).to(dtype)
    tensor = tensor if batch else tensor[0]
    path = tmp_path / f"prompt{suffix}"
    write(path, tensor)
    clouds = list(read_clouds(path))
    assert len(clouds) == (batch or 1)
    for index, cloud in enumerate(clouds):
        expected = tensor[index] if batch else tensor
        assert torch.equal(cloud.points, expected.to(cloud.points.dtype))
        assert cloud.points.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert cloud.stored == str(dtype).removeprefix("torch.")
        assert cloud.label.endswith(f"[{index}]") is (batch == 3)


def write(path: Path, tensor: torch.Tensor) -> None:
    if path.suffix == ".safetensors":
        safetensors.save_file({"prompt": tensor.contiguous()}, path)
    elif path.suffix in (".pt", ".pth"):
        torch.save(tensor, path)
    elif path.suffix == ".npz":
        np.savez(path, prompt=tensor.numpy())
    else:
        np.save(path, tensor.numpy())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("columns_first", [False, True])
def test_arrays_of_any_byte_order_and_layout_are_read(
    order: str, columns_first: bool, tmp_path: Path
) -> None:
    array = points().numpy().astype(f"{order}f8")
    np.save(tmp_path / "x.npy", np.asfortranarray(array) if columns_first else array)
    [cloud] = read_clouds(tmp_path / "x.npy")
    assert cloud.points.is_contiguous()
    assert np.array_equal(cloud.points.numpy(), array)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (1, 1, 4), (0, 2, 2)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npy", ".npz"])
def test_empty_clouds_are_clouds(suffix: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    write(tmp_path / f"x{suffix}", torch.zeros(shape))
    clouds = list(read_clouds(tmp_path / f"x{suffix}"))
    assert [tuple(c.points.shape) for c in clouds] == [shape[-2:]] * (
        shape[0] if len(shape) == 3 else 1
    )


def test_a_dict_with_one_tensor_is_that_tensor(tmp_path: Path) -> None:
    prompt = torch.nn.Parameter(points().unsqueeze(0))
    torch.save({"epoch": 3, "prompt": prompt, "ids": torch.arange(5)}, tmp_path / "x.pt")
    [cloud] = read_clouds(tmp_path / "x.pt")
    assert cloud.label == "prompt"
    assert not cloud.points.requires_grad
    assert torch.equal(cloud.points, prompt[0])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_several_tensors_are_chosen_by_name_or_pattern(suffix: str, tmp_path: Path) -> None:
    tensors = {f"layer.{i}.w[0]": points(seed=i) for i in range(2)} | {"bias": torch.zeros(3)}
    path = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        np.savez(path, **{name: t.numpy() for name, t in tensors.items()})
    elif suffix == ".pt":
        torch.save(tensors, path)
    else:
        safetensors.save_file(tensors, path)
    with pytest.raises(NoCloudError, match=r"2 tensors that can be clouds.*--key"):
        list(read_clouds(path))
    assert len(list(read_clouds(path, "*"))) == 2
    assert len(list(read_clouds(path, "layer.*"))) == 2
    [cloud] = read_clouds(path, "layer.1.w[0]")
    assert torch.equal(cloud.points, tensors["layer.1.w[0]"])
    for key in ("bias", "nothing*"):
        with pytest.raises(NoCloudError, match=r"no tensor.*it holds .*layer\.0"):
            list(read_clouds(path, key))


def test_steps_come_from_names_of_files_and_of_their_folders(tmp_path: Path) -> None:
    names = {
        "soft_prompt_epoch_012.pt": 12,
        "soft_prompt_epoch_28_val_loss_0.1201.pth": 28,
        "gemma2b.pt": None,
        "checkpoint-200/prompt.pt": 200,
        "step-000040/prompt.pt": 40,
        "epoch_3/step_9/prompt.pt": 9,
        "epoch_3_step_700.pt": 700,
    }
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(points(), tmp_path / name)
        [cloud] = read_clouds(tmp_path / name)
        assert cloud.step == names[name], name


def test_folders_are_read_in_natural_order_and_the_rest_is_passed_over(tmp_path: Path) -> None:
    for epoch in (10, 2, 0, 300):
        torch.save(points(), tmp_path / f"soft_prompt_epoch_{epoch}.pt")
    for name in ("README.md", "notes.json", ".tmp-x.pt", "noise.txt"):
        (tmp_path / name).write_text("no data")
    (tmp_path / ".cache").mkdir()
    torch.save(points(), tmp_path / ".cache/old.pt")
    assert [c.step for c in read_clouds(tmp_path)] == [0, 2, 10, 300]


def test_a_run_is_read_from_its_record_and_without_one_from_its_prompts(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for folder in (run, run / "control"):
        (folder / "prompts").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "checkpoints/step-000002").mkdir(parents=True)
        torch.save(points(), folder / "checkpoints/step-000002/training_state.pt")
        for epoch in range(2):
            torch.save(points(), folder / f"prompts/soft_prompt_epoch_00{epoch}.pt")
    prompts = [f"prompts/soft_prompt_epoch_00{epoch}.pt" for epoch in range(2)]
    own = [f"control/{name}" for name in prompts]
    assert relative(run) == [*own, *prompts]
    write_record(run / RECORD, [points()])
    assert relative(run) == [RECORD, *own]
    write_record(run / "control" / RECORD, [points()])
    assert relative(run) == [RECORD, f"control/{RECORD}"]
    assert relative(tmp_path) == [f"run/{RECORD}", f"run/control/{RECORD}"]


def relative(folder: Path) -> list[str]:
    return [str(source.relative_to(folder)) for source in find_sources(folder)]


def test_links_in_circles_end(tmp_path: Path) -> None:
    torch.save(points(), tmp_path / "a.pt")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert len(find_sources(tmp_path)) == 1


def test_nothing_to_read_is_an_error_that_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no data")
    with pytest.raises(NoCloudError, match="holds nothing to analyze: expected topo"):
        find_sources(tmp_path)
    with pytest.raises(NoCloudError, match=r"README\.md: clouds are read from"):
        list(read_clouds(tmp_path / "README.md"))
    with pytest.raises(FileNotFoundError, match="missing"):
        list(read_clouds(tmp_path / "missing"))


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
            safetensors.save_file(tensors, folder / "adapter_model.safetensors")
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


def test_lora_gives_the_rows_of_a_and_the_columns_of_b(tmp_path: Path) -> None:
    a, b = points(2, 7), points(9, 2)
    safetensors.save_file({"q.lora_A.weight": a, "q.lora_B.weight": b}, tmp_path / "x.safetensors")
    [rows] = read_clouds(tmp_path / "x.safetensors", "*lora_A*")
    [columns] = read_clouds(tmp_path / "x.safetensors", "*lora_B*")
    assert (rows.label, columns.label) == ("q.lora_A.weight rows", "q.lora_B.weight columns")
    assert torch.equal(rows.points, a)
    assert torch.equal(columns.points, b.T)


def test_lists_of_a_cloud_touch_no_rows_of_the_others(tmp_path: Path) -> None:
    path = write_record(tmp_path / RECORD, [points(seed=s) for s in range(3)], keep_every=2)
    columns = CloudColumns(read_record(path), 1)
    columns.lists("points")
    tracked = pa.total_allocated_bytes()
    first, none, last = columns.lists("points")
    assert pa.total_allocated_bytes() == tracked
    assert first.base is not None
    assert none is None
    assert first.tolist() == (2 * points(seed=0).double()).flatten().tolist()
    assert columns.lists("points", [2])[0].tolist() == last.tolist()
    assert columns.lists("points", []) == []


def test_a_lack_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_record(tmp_path / RECORD, [points()])

    def short(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(CloudColumns, "lists", short)
    with pytest.raises(SourceError, match="does not fit into memory") as caught:
        list(read_clouds(path))
    assert not isinstance(caught.value, DamagedSource)
