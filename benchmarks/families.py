"""Which way serves a family of models, whether it is right there, and how fast.

Tiny random models of every family, built in code: no weights are fetched. Texts are compared with
those of transformers' `generate` (greedy), log-likelihoods with those of the module's own forward
on one whole row for each continuation. Prompts have a common prefix, and are longer than the
windows. Times are those of one thread; of models so small they are those of Python more than those
of arithmetic.

    python -m benchmarks.families [--dtype bfloat16] [--write docs/reference/families.md] [NAME ...]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import basinscope as bs
from basinscope.tasks import Choices, Generate

WRITTEN = 12  # tokens of a text
PREFIX = "It was a dark night, and the wind blew over the hill. " * 5
CONTEXTS = (
    "We ran",
    "Two of them stood at the old gate and",
    "R",
    "It rained all day; nobody came",
)
WORDS = (" on", " home again", " for a while in the dark")
VOCABULARY = 257
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "initializer_range": 0.1, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
GPT = {
    "vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512,
    "initializer_range": 0.1, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}  # fmt: skip
DEEPSEEK = {
    **LATENT, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}  # fmt: skip
MAMBA2 = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8,
    "num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 16, "initializer_range": 0.1,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8, "original_max_position_embeddings": 48,
}  # fmt: skip

# name of transformers' config, and what differs from the sizes above
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", SIZES),
    "Llama, dynamic rope": (
        "LlamaConfig",
        SIZES | {
            "max_position_embeddings": 48,
            "rope_parameters": {"rope_type": "dynamic", "factor": 9.0, "rope_theta": 10000.0},
        },
    ),
    "Mistral, window 24": ("MistralConfig", SIZES | {"sliding_window": 24}),
    "Qwen2": ("Qwen2Config", SIZES),
    "Qwen3": ("Qwen3Config", SIZES | {"head_dim": 16}),
    "Phi": ("PhiConfig", SIZES),
    "Phi3, long rope": (
        "Phi3Config",
        SIZES | {"rope_parameters": LONG, "original_max_position_embeddings": 48},
    ),
    "GPT-2": ("GPT2Config", GPT),
    "GPT-Neo": (
        "GPTNeoConfig",
        {
            "vocab_size": VOCABULARY, "hidden_size": 64, "num_layers": 2, "num_heads": 4,
            "max_position_embeddings": 512, "window_size": 24, "initializer_range": 0.1,
            "attention_types": [[["global", "local"], 1]], "bos_token_id": 0, "eos_token_id": 0,
        },
    ),
    "GPT-NeoX": ("GPTNeoXConfig", SIZES),
    "GPT-J": ("GPTJConfig", GPT | {"rotary_dim": 8}),
    "OPT": ("OPTConfig", SIZES | {"ffn_dim": 96, "word_embed_proj_dim": 64, "init_std": 0.1}),
    "BLOOM": ("BloomConfig", SIZES | {"n_head": 4, "n_layer": 2}),
    "Falcon": ("FalconConfig", SIZES),
    "Gemma": ("GemmaConfig", SIZES | {"head_dim": 16}),
    "Gemma 2, window 24": ("Gemma2Config", SIZES | {"head_dim": 16, "sliding_window": 24}),
    "Gemma 3, window 24": ("Gemma3TextConfig", SIZES | {"head_dim": 16, "sliding_window": 24}),
    "Cohere": ("CohereConfig", SIZES),
    "Cohere 2, window 24": ("Cohere2Config", SIZES | {"sliding_window": 24}),
    "Granite": ("GraniteConfig", SIZES | {"logits_scaling": 4.0, "residual_multiplier": 0.5}),
    "StarCoder2": ("Starcoder2Config", SIZES),
    "StableLM": ("StableLmConfig", SIZES),
    "OLMo 2": ("Olmo2Config", SIZES),
    "SmolLM3": ("SmolLM3Config", SIZES),
    "Mamba": (
        "MambaConfig",
        {k: v for k, v in MAMBA2.items() if k not in ("num_heads", "head_dim", "n_groups")},
    ),
    "Mamba 2": ("Mamba2Config", MAMBA2),
    "Falcon-Mamba": (
        "FalconMambaConfig",
        {k: v for k, v in MAMBA2.items() if k not in ("num_heads", "head_dim", "n_groups")},
    ),
    "RWKV": (
        "RwkvConfig",
        {
            "vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2,
            "attention_hidden_size": 64, "intermediate_size": 96, "context_length": 512,
            "bos_token_id": 0, "eos_token_id": 0,
        },
    ),
    "RecurrentGemma": (
        "RecurrentGemmaConfig",
        SIZES | {"lru_width": 64, "attention_window_size": 24, "num_hidden_layers": 3,
                 "head_dim": 16},
    ),
    "Jamba": (
        "JambaConfig",
        SIZES | {
            "num_experts": 2, "expert_layer_period": 2, "expert_layer_offset": 1,
            "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8,
            "use_mamba_kernels": False,
        },
    ),
    "Bamba": (
        "BambaConfig",
        SIZES | {
            "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1,
            "mamba_d_state": 8, "mamba_chunk_size": 16,
        },
    ),
    "Zamba 2": (
        "Zamba2Config",
        SIZES | {
            "mamba_d_state": 8, "n_mamba_heads": 8, "mamba_headdim": 16, "mamba_ngroups": 1,
            "chunk_size": 16, "num_mem_blocks": 1, "num_key_value_heads": 4,
            "layers_block_type": ["mamba", "hybrid"], "use_mamba_kernels": False,
        },
    ),
    "LFM2": ("Lfm2Config", SIZES | {"layer_types": ["conv", "full_attention"]}),
    "Qwen3-Next": (
        "Qwen3NextConfig",
        SIZES | EXPERTS | {
            "head_dim": 16, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
            "linear_key_head_dim": 16, "linear_value_head_dim": 16,
            "shared_expert_intermediate_size": 32,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "Mixtral": ("MixtralConfig", SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "Qwen2-MoE": ("Qwen2MoeConfig", SIZES | EXPERTS | {"shared_expert_intermediate_size": 32}),
    "Qwen3-MoE": ("Qwen3MoeConfig", SIZES | EXPERTS | {"head_dim": 16}),
    "OLMoE": ("OlmoeConfig", SIZES | EXPERTS),
    "GPT-OSS, window 24": (
        "GptOssConfig",
        SIZES | {
            "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 24,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "DeepSeek-V3": ("DeepseekV3Config", SIZES | DEEPSEEK),
    "Llama 4": (
        "Llama4TextConfig",
        SIZES | {
            "num_local_experts": 2, "intermediate_size_mlp": 96, "head_dim": 16,
            "attention_chunk_size": 24,
        },
    ),
}  # fmt: skip


def built(name: str, dtype: Any, seed: int = 0) -> Any:
    """A tiny random model of a family."""
    import transformers

    kind, settings = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, kind)(**settings)
        )
    return model.to(dtype).eval()


def tokenizer() -> Any:
    """Of bytes, with an end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")


@dataclass(frozen=True)
class Measured:
    """What was found of one family.

    Attributes:
        kind: of the engine.
        fallback: what it says where that is not the quickest way.
        texts: share of texts that are those of `generate`.
        nats: most that a continuation's log-likelihood is off.
        alone: whether answers have the same bytes without the other requests.
        texts_s: seconds of the texts, here, in `generate`, and in `generate` without a cache.
        nats_s: seconds of the log-likelihoods, here and in whole rows.
    """

    kind: str
    fallback: str
    texts: float
    nats: float
    alone: bool
    texts_s: tuple[float, float, float]
    nats_s: tuple[float, float]


def measured(
    name: str,
    dtype: torch.dtype,
    *,
    prefix: str = PREFIX,
    length: int = WRITTEN,
    slow: bool = False,
) -> Measured:
    """Compare a family's engine with transformers itself.

    Args:
        name: of the family.
        dtype: of the weights.
        prefix: of all prompts.
        length: tokens of a text.
        slow: whether to time `generate` without a cache, on one prompt.
    """
    model, tokens = built(name, dtype), tokenizer()
    engine = bs.load(model, tokenizer=tokens)
    asked = [Choices(context, WORDS, prefix) for context in CONTEXTS]
    written = [Generate(context, length, prefix=prefix) for context in CONTEXTS]
    engine.answer([Choices("It", WORDS), Generate("It", 2)])  # what is made once is made
    ranked, ranked_s = timed(lambda: engine.answer(asked))
    texts, texts_s = timed(lambda: engine.answer(written))
    with torch.inference_mode():
        plain, plain_s = timed(lambda: [logliks(model, tokens, r) for r in asked])
        prompts = [request.prefix + request.prompt for request in written]
        greedy, greedy_s = timed(lambda: [text(model, tokens, p, length) for p in prompts])
        slow_s = timed(lambda: slow and text(model, tokens, prompts[0], length, cache=False))[1]
    together = engine.answer([*asked, *written])
    return Measured(
        kind=engine.kind,
        fallback=engine.fallback,
        texts=sum(a.text == b for a, b in zip(texts, greedy, strict=True)) / len(texts),
        nats=max(abs(a - b) for r, own in zip(ranked, plain, strict=True)
                 for a, b in zip(r.loglik, own, strict=True)),
        alone=together == [engine.answer([request])[0] for request in (*asked, *written)],
        texts_s=(texts_s, greedy_s, slow_s * len(prompts)),
        nats_s=(ranked_s, plain_s),
    )  # fmt: skip


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What some work gives, and its seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def settle(model: Any) -> None:
    """Let rotary frequencies begin anew that grow with the longest row so far."""
    model(input_ids=torch.tensor([[5]]))


def logliks(model: Any, tokens: Any, request: Choices) -> list[float]:
    """Log-likelihood of every continuation, by its definition."""
    start = tokens.encode(request.prefix + request.context)
    sums = []
    for word in request.continuations:
        row = [*start, *tokens.encode(word)]
        settle(model)
        logits = model(input_ids=torch.tensor([row])).logits[0].float().log_softmax(-1)
        sums.append(sum(float(logits[i - 1, row[i]]) for i in range(len(start), len(row))))
    return sums


def text(model: Any, tokens: Any, prompt: str, length: int, cache: bool = True) -> str:
    """What `generate` writes."""
    settle(model)
    ids = torch.tensor([tokens.encode(prompt)])
    row = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False,
        eos_token_id=0, pad_token_id=0, use_cache=cache,
    )[0, ids.shape[1] :].tolist()  # fmt: skip
    return str(tokens.decode(row[: row.index(0)] if 0 in row else row))


def way(kind: str) -> str:
    """A kind of engine in a word or two."""
    words = kind.split("/")[0].split("-")[1:]
    slow = next((word for word in ("cached", "whole") if word in words), "")
    quick = "quick" if not slow or len(words) > 1 else ""
    slow = {"": "", "cached": "cached", "whole": "whole row"}[slow]
    return ", longer rows ".join(filter(None, (quick, slow)))


def table(names: Sequence[str], dtype: torch.dtype) -> str:
    """A row for each family."""
    lines = [
        "| family | way | texts as `generate` | nats off | same bytes alone | texts against "
        "`generate` | texts against the whole row for each token | log-likelihoods against whole "
        "rows |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        own = measured(name, dtype, slow=True)
        lines.append(
            f"| {name} | {way(own.kind)} | {own.texts:.0%} | {own.nats:.0e} "
            f"| {'yes' if own.alone else 'no'} | {own.texts_s[1] / own.texts_s[0]:.1f}× "
            f"| {own.texts_s[2] / own.texts_s[0]:.1f}× | {own.nats_s[1] / own.nats_s[0]:.1f}× |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


MARK = "<!-- python -m benchmarks.families -->"


def main() -> None:
    """Print the table, or put it into a page below its mark."""
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description="Which way serves which family of models.")
    parser.add_argument("names", nargs="*", help="families; default all")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--write", type=Path, help="page")
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    lines = table(options.names or list(FAMILIES), getattr(torch, options.dtype))
    if options.write is not None:
        before = options.write.read_text(encoding="utf-8").split(MARK)[0]
        options.write.write_text(f"{before}{MARK}\n\n{lines}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
