"""Every format gives the points that were put into it, in order."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pyarrow", reason='pip install "tsloss-fast[analysis]"')
pytest.importorskip("safetensors")

import pyarrow as pa
from safetensors.torch import save_file
from saved_points import points, write, write_record

from tsloss_fast.analysis.analyze.sources import find_sources, read_clouds
from tsloss_fast.analysis.analyze.tensor_files import DamagedSource, NoCloudError, SourceError
from tsloss_fast.analysis.record import RECORD
from tsloss_fast.analysis.record.reader import CloudColumns, read_record
from tsloss_fast.analysis.record.writer import RecordWriter

SAVED = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


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
    said = r"arrows is damaged or cut off after step 10, and is read without its last \d+ bytes"
    with pytest.warns(UserWarning, match=said):
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
        for suffix in (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npy", ".npz")
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


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (1, 1, 4), (1, 0, 2)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npy", ".npz"])
def test_empty_clouds_are_clouds(suffix: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    write(tmp_path / f"x{suffix}", torch.zeros(shape))
    clouds = list(read_clouds(tmp_path / f"x{suffix}"))
    assert [tuple(c.points.shape) for c in clouds] == [shape[-2:]]


def optimizer_states(prompt: torch.nn.Parameter) -> dict[str, object]:
    optimizer = torch.optim.SGD([prompt], lr=0.0, momentum=0.9)
    prompt.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


PROMPT = torch.nn.Parameter(points())
CIRCLE: dict[str, object] = {"prompt": PROMPT}
CIRCLE["again"] = CIRCLE["twice"] = CIRCLE


@pytest.mark.parametrize(
    ("saved", "label"),
    [
        ({"epoch": 3, "prompt": PROMPT, "ids": torch.arange(5)}, "prompt"),
        ({"state_dict": {"prompt": points()}, "epoch": 3}, "state_dict.prompt"),
        ({"model": {"encoder": {"layers": [{"w": points()}]}}}, "model.encoder.layers.0.w"),
        ([points()], "0"),
        ((3, {7: points()}), "1.7"),
        (CIRCLE, "prompt"),
        ({"state_dict": {"p": PROMPT}, "states": [optimizer_states(PROMPT)]}, "state_dict.p"),
    ],
    ids=str,
)
def test_tensors_in_dicts_and_lists_are_read_once_and_named_by_their_path(
    saved: object, label: str, tmp_path: Path
) -> None:
    torch.save(saved, tmp_path / "x.ckpt")
    for key in (None, label, "*p*" if "p" in label else "*"):
        [cloud] = read_clouds(tmp_path / "x.ckpt", key)
        assert cloud.label == label
        assert not cloud.points.requires_grad
        assert torch.equal(cloud.points, points())


def test_the_state_of_an_optimizer_is_no_cloud(tmp_path: Path) -> None:
    torch.save(optimizer_states(PROMPT), tmp_path / "optimizer.pt")
    with pytest.raises(NoCloudError, match=r"optimizer\.pt holds a dict without a tensor"):
        list(read_clouds(tmp_path / "optimizer.pt"))


def sharded(folder: Path, shards: dict[str, dict[str, torch.Tensor]]) -> Path:
    places = {}
    for file, tensors in shards.items():
        write_shard = save_file if file.endswith(".safetensors") else torch.save
        write_shard(tensors, folder / file)
        places |= dict.fromkeys(tensors, file)
    end = "safetensors" if file.endswith(".safetensors") else "bin"
    index = folder / f"model.{end}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


@pytest.mark.parametrize("end", ["safetensors", "bin"])
def test_the_shards_of_a_checkpoint_are_one_source(end: str, tmp_path: Path) -> None:
    first, second = (f"model-0000{i}-of-00002.{end}" for i in (1, 2))
    index = sharded(tmp_path, {first: {"a": points(seed=1)}, second: {"b": points(seed=2)}})
    assert find_sources(tmp_path) == [index]
    with pytest.raises(NoCloudError, match=r"2 tensors that can be clouds \(a, b\)"):
        list(read_clouds(tmp_path))
    assert [cloud.label for cloud in read_clouds(index, "*")] == ["a", "b"]
    [cloud] = read_clouds(tmp_path, "b")
    assert torch.equal(cloud.points, points(seed=2))
    # A shard that is not needed need not be there.
    (tmp_path / first).unlink()
    [cloud] = read_clouds(index, "b")
    with pytest.raises(NoCloudError, match=rf"'a' is not in {first}, or that file is not here"):
        list(read_clouds(index, "a"))


@pytest.mark.parametrize(
    "index",
    ["{", "[]", "{}", *(f'{{"weight_map": {{"a": {file}}}}}' for file in
     ('"../a.safetensors"', "3", '"model.safetensors.index.json"', '"a.npy"'))],
)  # fmt: skip
def test_an_index_that_is_damaged_or_leaves_its_folder_is_named(index: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": points()}, tmp_path / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    said = r"index\.json is damaged"
    if "a.npy" in index:
        said += (
            r".*names the file 'a\.npy'; expected names of \.safetensors or \.bin files beside it"
        )
    with pytest.raises(DamagedSource, match=said):
        list(read_clouds(folder))


def test_in_a_folder_only_files_of_torch_count_among_those_named_bin(tmp_path: Path) -> None:
    (tmp_path / "vocabulary.bin").write_bytes(b"other")
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "tokens.index.json").write_text("{}")
    torch.save(points(), tmp_path / "prompt.bin")
    assert find_sources(tmp_path) == [tmp_path / "prompt.bin"]


@pytest.mark.parametrize("index", ["x.index.json", ".x.safetensors.index.json"])
def test_an_index_that_is_not_read_hides_no_shards(index: str, tmp_path: Path) -> None:
    save_file({"p": points()}, tmp_path / "s.safetensors")
    (tmp_path / index).write_text('{"weight_map": {"p": "s.safetensors"}}')
    assert find_sources(tmp_path) == [tmp_path / "s.safetensors"]


def test_models_of_llama_cpp_are_read_in_folders(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason='pip install "tsloss-fast[tuning]"')
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("token_embd.weight", points().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    [cloud] = read_clouds(tmp_path)
    assert cloud.label == "token_embd.weight"
    assert torch.equal(cloud.points, points())


def test_adapters_in_one_another_are_each_read_once_from_the_newer_file(tmp_path: Path) -> None:
    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5}
    for seed, folder in ((1, tmp_path), (3, tmp_path / "german")):
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        prompt = {"prompt_embeddings": points(seed=seed)}
        save_file(prompt, folder / "adapter_model.safetensors")
    torch.save({"prompt_embeddings": points(seed=2)}, tmp_path / "adapter_model.bin")
    found = [(cloud.source, cloud.points) for cloud in read_clouds(tmp_path)]
    assert [source for source, _ in found] == [tmp_path, tmp_path / "german"]
    assert all(torch.equal(p, points(seed=s)) for s, (_, p) in zip((1, 3), found, strict=True))
    # Of two files of weights, the one that was given is read.
    [cloud] = read_clouds(tmp_path / "adapter_model.bin")
    assert torch.equal(cloud.points, points(seed=2))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_several_tensors_are_chosen_by_name_or_pattern(suffix: str, tmp_path: Path) -> None:
    tensors = {f"layer.{i}.w[0]": points(seed=i) for i in range(2)} | {"bias": torch.zeros(3)}
    path = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        np.savez(path, **{name: t.numpy() for name, t in tensors.items()})
    elif suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    with pytest.raises(NoCloudError, match=r"2 tensors that can be clouds.*--key"):
        list(read_clouds(path))
    assert len(list(read_clouds(path, "*"))) == 2
    assert len(list(read_clouds(path, "layer.*"))) == 2
    [cloud] = read_clouds(path, "layer.1.w[0]")
    assert torch.equal(cloud.points, tensors["layer.1.w[0]"])
    # A file of one array has no names: a key is meant for the others of its folder.
    np.save(tmp_path / "z.npy", points().numpy())
    assert [cloud.label for cloud in read_clouds(tmp_path, "layer.0*")] == ["layer.0.w[0]", ""]
    for key in ("bias", "nothing*"):
        with pytest.raises(
            NoCloudError, match=rf"no (tensor|cloud).* called {re.escape(repr(key))}"
        ):
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
    said = r"holds nothing to analyze: expected topo.*\.gguf, \.safetensors\.index\.json"
    with pytest.raises(NoCloudError, match=said):
        find_sources(tmp_path)
    with pytest.raises(NoCloudError, match=r"README\.md: expected a file whose name ends in"):
        list(read_clouds(tmp_path / "README.md"))
    with pytest.raises(FileNotFoundError, match="missing"):
        list(read_clouds(tmp_path / "missing"))


def test_lora_gives_the_rows_of_a_and_the_columns_of_b(tmp_path: Path) -> None:
    a, b = points(2, 7), points(9, 2)
    save_file({"q.lora_A.weight": a, "q.lora_B.weight": b}, tmp_path / "x.safetensors")
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
