"""Saved peft adapters hold the clouds that their models have; a run of `tsloss tune` is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_llama import NEEDS

pytest.importorskip("transformers", reason=NEEDS)
peft = pytest.importorskip("peft", reason=NEEDS)
pytest.importorskip("pyarrow", reason=NEEDS)
load_file = pytest.importorskip("safetensors.torch", reason=NEEDS).load_file

from tsloss_fast.analysis.analyze.sources import find_sources, read_clouds  # noqa: E402
from tsloss_fast.analysis.analyze.tensor_files import NoCloudError  # noqa: E402
from tsloss_fast.tuning import prompt_clouds  # noqa: E402

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

TASK = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5}


def saved(model: Any, config: Any, folder: Path) -> Any:
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, config)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    return wrapped


@pytest.mark.parametrize(
    ("method", "clouds", "label"),
    [
        ("PromptTuningConfig", 1, "prompt_embeddings"),
        ("PromptEncoderConfig", 1, "prompt_embeddings"),
        ("PrefixTuningConfig", 4, "layer 1 values"),
        ("MultitaskPromptTuningConfig", 3, "task 2"),
    ],
)
def test_an_adapter_holds_the_clouds_of_its_model(
    method: str, clouds: int, label: str, tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    more = {"num_tasks": 3, "num_ranks": 2} if clouds == 3 else {}
    model = saved(tiny_model, getattr(peft, method)(**TASK, **more), tmp_path / "checkpoint-7")
    expected = prompt_clouds(model).detach()
    read = list(read_clouds(tmp_path))
    assert len(read) == len(expected) == clouds
    assert read[-1].label == label
    for cloud, points in zip(read, expected, strict=True):
        assert cloud.step == 7
        torch.testing.assert_close(cloud.points, points, rtol=1e-6, atol=1e-7)
    # The file of the weights alone is read as the folder it lies in.
    weights = tmp_path / "checkpoint-7/adapter_model.safetensors"
    again = list(read_clouds(weights))
    assert all(torch.equal(a.points, b.points) for a, b in zip(read, again, strict=True))
    assert {cloud.source for cloud in again} == {weights}


def test_a_projected_prefix_is_saved_as_what_the_projection_gives(
    tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    config = peft.PrefixTuningConfig(**TASK, prefix_projection=True, encoder_hidden_size=8)
    expected = prompt_clouds(saved(tiny_model, config, tmp_path)).detach()
    read = [cloud.points for cloud in read_clouds(tmp_path)]
    torch.testing.assert_close(torch.stack(read), expected, rtol=1e-6, atol=1e-7)


def test_adaption_prompts_are_one_cloud_for_each_layer(
    tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    config = peft.AdaptionPromptConfig(
        task_type="CAUSAL_LM", adapter_len=4, adapter_layers=2, target_modules="self_attn"
    )
    expected = prompt_clouds(saved(tiny_model, config, tmp_path)).detach()
    read = [cloud.points for cloud in read_clouds(tmp_path)]
    assert torch.equal(torch.stack(read), expected)


def test_an_adapter_pickled_by_an_old_version_of_peft_is_read(
    tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    model = saved(tiny_model, peft.PromptTuningConfig(**TASK), tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "adapter_model.bin")
    weights.unlink()
    for source in (tmp_path, tmp_path / "adapter_model.bin"):
        [cloud] = read_clouds(source)
        torch.testing.assert_close(cloud.points, prompt_clouds(model).detach()[0])


def test_lora_is_read_where_it_is_asked_for(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=3, target_modules=["q_proj"], init_lora_weights=False
    )
    saved(tiny_model, config, tmp_path)
    with pytest.raises(NoCloudError, match="LORA"):
        list(read_clouds(tmp_path))
    for key, width in (("*lora_A*", 32), ("*layers.0*lora_B*", 32)):
        read = list(read_clouds(tmp_path, key))
        assert len(read) == (2 if key == "*lora_A*" else 1)
        assert {tuple(cloud.points.shape) for cloud in read} == {(3, width)}


def test_checkpoints_of_a_trainer_are_read_in_the_order_of_their_steps(
    tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    model = saved(tiny_model, peft.PromptTuningConfig(**TASK), tmp_path / "checkpoint-9")
    model.save_pretrained(tmp_path / "checkpoint-10", save_embedding_layers=False)
    torch.save({"state": {}}, tmp_path / "checkpoint-10/optimizer.pt")
    assert [source.name for source in find_sources(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert [cloud.step for cloud in read_clouds(tmp_path)] == [9, 10]


def test_the_run_of_a_command_is_analyzed(tiny_model_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("gudhi")
    pytest.importorskip("sklearn")
    from tsloss_fast import cli

    run = tmp_path / "run"
    arguments = f"--model {tiny_model_dir} --steps 4 --train-size 8 --test-size 4 --batch-size 4"
    assert cli.main(["tune", *arguments.split(), "--virtual-tokens", "6", "--out", str(run)]) == 0
    assert cli.main(["analyze", str(run), "-o", str(tmp_path / "out.json")]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())
    assert len(rows) > 1
    assert rows[0]["step"] == 0
    assert all(row["n_points"] == 6 and row["h0_bars"] == 5 for row in rows)
    assert cli.main(["analyze", str(run / "adapter"), "-o", str(tmp_path / "end.json")]) == 0
    [end] = json.loads((tmp_path / "end.json").read_text())
    assert cli.main(["analyze", str(run / "prompts"), "-o", str(tmp_path / "all.json")]) == 0
    last = json.loads((tmp_path / "all.json").read_text())[-1]
    assert end["h0_mean_lifetime"] == last["h0_mean_lifetime"]
