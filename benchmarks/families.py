"""Which way serves a family of models, whether it is right there, and how fast.

Tiny random models of every family, in float32 and bfloat16, built in code: no weights are fetched.

    python -m benchmarks.families [--write docs/reference/families.md] [NAME ...]
"""

from __future__ import annotations

from typing import Any

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
            "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
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
    import torch
    import transformers

    kind, settings = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, kind)(**settings)
        )
    return model.to(dtype).eval()
