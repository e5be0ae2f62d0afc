"""The first values of a soft prompt, and the prompt in front of a model."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tsloss_fast.tuning.clouds import look_up, prompt_clouds, unwrap
from tsloss_fast.tuning.config import INITS

__all__ = ["add_soft_prompt", "initial_prompt", "prompt_clouds"]


def initial_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    num_virtual_tokens: int,
    method: str = "vocabulary",
    text: str | None = None,
    seed: int = 0,
    jitter: float = 0.0,
) -> Tensor:
    """Return the first values of a soft prompt, the same for the same arguments on every device.

    Args:
        model: the model whose input embeddings are read, wherever they are, also offloaded by
            accelerate. Nothing in it is changed.
        tokenizer: its tokenizer; special tokens are never drawn.
        num_virtual_tokens: N, at least 1.
        method: `"vocabulary"`, embeddings of N distinct tokens; `"text"`, embeddings of the tokens
            of `text`, repeated or cut to N; or `"normal"`, independent N(0, 1), as peft's RANDOM,
            which is off the manifold of embeddings: on SmolLM2 the mean death is ten times that of
            vocabulary rows, and training is slower.
        text: the text of the method `"text"`.
        seed: of the draw and of the jitter. The global generator is neither read nor moved.
        jitter: standard deviation of normal noise added to every number, in units of the root mean
            square of all numbers. TSLoss cannot separate coincident tokens, since its gradient
            there is 0; a jitter of 0.01 can.

    Returns:
        (N, D) float32 on the CPU, without gradient.

    Raises:
        ValueError, TypeError: an unknown method, N < 1, more tokens than the vocabulary holds, a
            text that is missing, empty or not used, a negative or infinite jitter, a model whose
            weights are not loaded (on the device "meta").

    Warns:
        UserWarning: some virtual tokens coincide, with their number.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
        >>> words = models.WordLevel({f"word{i}": i for i in range(16)}, unk_token="word0")
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))
        >>> sizes = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
        >>> model = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **sizes))
        >>> initial_prompt(model, tokenizer, num_virtual_tokens=5).shape
        torch.Size([5, 8])
    """
    count = num_virtual_tokens
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"num_virtual_tokens must be an integer, got {count!r}")
    if count < 1:
        raise ValueError(f"num_virtual_tokens must be at least 1, got {count}")
    if method not in INITS:
        raise ValueError(f"method must be one of {', '.join(INITS)}, got {method!r}")
    if method != "text" and text is not None:
        raise ValueError(f'text is only used by method="text", but method is {method!r}')
    if not math.isfinite(jitter) or jitter < 0:
        raise ValueError(f"jitter must be 0 or a positive finite number, got {jitter}")

    generator = torch.Generator().manual_seed(seed)
    embeddings = _input_embeddings(model)
    if method == "normal":
        prompt = torch.randn((count, embeddings.weight.shape[1]), generator=generator, device="cpu")
    else:
        if method == "text":
            if text is None:
                raise ValueError('method="text" needs the text: initial_prompt(..., text="...")')
            tokens = list(tokenizer(text, add_special_tokens=False)["input_ids"])
            if not tokens:
                raise ValueError(f"the text {text!r} has no tokens; pass at least one word")
            ids = torch.tensor((tokens * -(-count // len(tokens)))[:count], device="cpu")
        else:
            ids = _vocabulary_tokens(tokenizer, embeddings.weight.shape[0], count, generator)
        with torch.no_grad():
            rows = look_up(embeddings, ids)
        prompt = rows.detach().to(device="cpu", dtype=torch.float32, copy=True)

    if jitter > 0:
        scale = prompt.square().mean().sqrt().item() or 1.0
        prompt += jitter * scale * torch.randn(prompt.shape, generator=generator, device="cpu")
    counts = torch.unique(prompt, dim=0, return_counts=True)[1]
    coincident = int(counts[counts > 1].sum())
    if coincident:
        cure = "a larger jitter" if jitter else "jitter=0.01"
        warnings.warn(
            f"{coincident} of {len(prompt)} virtual tokens coincide with another one "
            f"({len(counts)} distinct): TSLoss has no gradient between coincident points and "
            f"cannot separate them; pass {cure}, or start from vocabulary rows",
            UserWarning,
            stacklevel=2,
        )
    return prompt


def add_soft_prompt(model: PreTrainedModel, initial: Tensor) -> Any:
    """Put a soft prompt in front of a model (peft PROMPT_TUNING) and freeze all the rest.

    Args:
        model: a causal or an encoder-decoder language model of any dtype, without an adapter.
        initial: (N, D) floating tensor, D the model's embedding size; it is copied.

    Returns:
        A `peft.PeftModel` whose only trainable parameter is the prompt, in float32: half precision
        lets Adam run into infinity, and rounds small steps away.

    Raises:
        ValueError, TypeError: the shape or dtype is wrong, a value is not finite, or the model
            already has an adapter.

    Source: Lester, Al-Rfou & Constant, The Power of Scale for Parameter-Efficient Prompt Tuning,
    EMNLP 2021.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
        >>> model = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **sizes))
        >>> model = add_soft_prompt(model, torch.randn(5, 8))
        >>> [tuple(p.shape) for p in model.parameters() if p.requires_grad]
        [(5, 8)]
    """
    from peft import PeftModel, PromptTuningConfig, PromptTuningInit, TaskType, get_peft_model

    base: Any = model
    if isinstance(base, PeftModel):
        raise ValueError(
            f"the model already has the adapters {sorted(base.peft_config)}; pass the base model "
            "(model.get_base_model())"
        )
    if not isinstance(initial, Tensor) or not initial.is_floating_point():
        found = initial.dtype if isinstance(initial, Tensor) else type(initial).__name__
        raise TypeError(f"initial must be a floating tensor of shape (N, D), got {found}")
    dim = _input_embeddings(model).weight.shape[1]
    if initial.ndim != 2 or initial.shape[0] < 1 or initial.shape[1] != dim:
        raise ValueError(
            f"initial must have the shape (N, {dim}) with N >= 1, {dim} being the size of this "
            f"model's embeddings; got {tuple(initial.shape)}"
        )
    if not bool(initial.isfinite().all()):
        raise ValueError("initial holds NaN or infinity")

    settings = model.config.to_dict()
    settings = settings.get("text_config", settings)
    # peft asks for the number with every kind of prompt and uses it for prefixes alone; a
    # state-space model has no attention, so it is told here.
    heads = {"num_attention_heads", "n_head", "num_heads", "encoder_attention_heads"}
    seq2seq = bool(getattr(model.config, "is_encoder_decoder", False))
    config = PromptTuningConfig(
        task_type=TaskType.SEQ_2_SEQ_LM if seq2seq else TaskType.CAUSAL_LM,
        num_virtual_tokens=initial.shape[0],
        token_dim=dim,
        num_transformer_submodules=1,
        prompt_tuning_init=PromptTuningInit.RANDOM,
        num_attention_heads=None if heads & settings.keys() else 1,
    )
    # peft draws numbers that are overwritten at once; the caller's generator must not notice.
    with torch.random.fork_rng(devices=[]):
        wrapped: Any = get_peft_model(model, config)
    embedding = wrapped.prompt_encoder[wrapped.active_adapter].embedding
    if embedding.weight.is_meta:
        # The model is offloaded: the prompt goes where its embeddings are computed.
        with torch.no_grad():
            row = look_up(_input_embeddings(model), torch.tensor([0], device="cpu"))
        embedding.to_empty(device=row.device)
    embedding.weight.data = initial.detach().to(embedding.weight.device, torch.float32, copy=True)
    return wrapped


def _input_embeddings(model: Any) -> nn.Embedding:
    model = unwrap(model) if isinstance(model, nn.Module) else model
    getter = getattr(model, "get_input_embeddings", None)
    embeddings: nn.Embedding | None = getter() if callable(getter) else None
    if embeddings is None or getattr(embeddings, "weight", None) is None:
        raise TypeError(
            f"{type(model).__name__} has no table of input embeddings "
            "(get_input_embeddings); pass a transformers language model"
        )
    return embeddings


def _vocabulary_tokens(
    tokenizer: PreTrainedTokenizerBase, rows: int, count: int, generator: torch.Generator
) -> Tensor:
    special = set(tokenizer.all_special_ids)
    special.update(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)
    # Embedding tables are often padded with rows that belong to no token: draw from the tokens.
    ids = sorted({i for i in tokenizer.get_vocab().values() if i < rows} - special)
    if count > len(ids):
        raise ValueError(
            f"{count} virtual tokens asked for, but the vocabulary has only {len(ids)} tokens "
            "that are not special; ask for fewer or use another method"
        )
    order = torch.randperm(len(ids), generator=generator, device="cpu")[:count]
    return torch.tensor(ids, device="cpu")[order]
