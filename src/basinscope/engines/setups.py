"""What beside the weights turns them into answers, compared between a model and another folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from basinscope.engines.sources import first_line, quiet
from basinscope.errors import BasinscopeError
from basinscope.files import read_json

OF_THE_FILE = (
    "_name_or_path", "architectures", "dtype", "quantization_config", "torch_dtype",
    "transformers_version",
)  # fmt: skip
"""Settings that say where a config came from and how it was stored, not what the model does."""

# settings that act in training, in generation by transformers, or in other heads
_IDLE = re.compile(
    r"^_|dropout|drop_?path|_pdrop$|^initializer|^init_|_token_id$|_token_ids$|label|^output_|"
    r"^return_|^use_cache$|^problem_type$|^task_specific_params$|^summary_|^pretraining_tp$|"
    r"^gradient_checkpointing$|^router_(aux_loss|jitter)|^auto_map$|^attn_implementation$|"
    r"^(is_decoder|is_encoder_decoder|add_cross_attention|chunk_size_feed_forward|pruned_heads)$|"
    r"^(finetuning_task|prefix|unsloth.*)$"
)
# texts in which tokenizers of one vocabulary differ if they differ at all
_PROBES = (
    "Hello, world!  Two  spaces,\ttab\nline\n\n    indented 12345 3.14",
    " leading", "trailing ", "Äußerst naïve 漢字 かな 🙂 e\u0301 don't I'LL x=y**2;",
)  # fmt: skip


def check_setup(
    label: str, module: Any, tokenizer: Any, ends: frozenset[int], folder: Path
) -> None:
    """Refuse weights whose folder says that they answer in another way than the model.

    Compared is what the folder has of: config (fields that change the computation), tokenizer,
    chat template, end tokens. Weights alone have none of them.

    Args:
        label: what the folder is to the user.
        module: the model.
        tokenizer: its tokenizer; None for none, and then only the config is compared.
        ends: tokens that end its texts.
        folder: of the other checkpoint.

    Raises:
        BasinscopeError: with the first field that differs.
    """
    part = "config"
    try:
        difference = _config_differs(module, folder)
        if not difference and tokenizer is not None:
            part = "tokenizer"
            difference = _tokenizer_differs(tokenizer, ends, folder)
    except BasinscopeError:
        raise
    except Exception as error:  # whatever transformers says of a malformed file
        difference = f"its {part} cannot be read ({first_line(error)})"
    if difference:
        raise BasinscopeError(
            f"{label} answers in another way than the model: {difference}",
            "the model's own config, tokenizer, chat template and end tokens: both use them",
            "load it as a model of its own (basinscope check --logs compares the answers of any "
            "two), or give its weights in a folder without those files",
        )


def rules(tokenizer: Any) -> dict[str, Any]:
    """Rules of a tokenizer; how a call pads or cuts is a state that the last call left, not one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    everything = json.loads(backend.to_str()) if backend else tokenizer.get_vocab()
    return {k: v for k, v in everything.items() if k not in ("padding", "truncation")}


def end_tokens(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a text: what generation stops at, and the tokenizer's own."""
    ends = getattr(generation_config, "eos_token_id", None)
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    last = tokenizer.eos_token_id
    return frozenset(ends + ([last] if last is not None else []))


def _config_differs(module: Any, folder: Path) -> str:
    from transformers import PretrainedConfig

    config = getattr(module, "config", None)
    if not (folder / "config.json").is_file() or not isinstance(config, PretrainedConfig):
        return ""
    stored = _json(folder / "config.json")
    kind = stored.get("model_type", config.model_type)
    if kind != config.model_type:
        return f"model_type {kind!r}, the model's {config.model_type!r}"
    with quiet():
        other = _computing(type(config).from_dict(stored))
    own = _computing(config)
    for key in sorted(own.keys() | other.keys()):
        if own.get(key) != other.get(key):
            return f"{key} {other.get(key)!r:.80}, the model's {own.get(key)!r:.80}"
    return ""


def _computing(config: Any) -> Any:
    """Fields of a config as JSON has them, without those that are idle here, at every depth."""
    return _without_idle(json.loads(json.dumps(config.to_dict(), default=str)))


def _without_idle(fields: Any) -> Any:
    if not isinstance(fields, dict):
        return fields
    return {
        key: _without_idle(value)
        for key, value in fields.items()
        if key not in OF_THE_FILE and not _IDLE.search(key)
    }


def _tokenizer_differs(tokenizer: Any, ends: frozenset[int], folder: Path) -> str:
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    if not any((folder / name).is_file() for name in files):
        return ""
    from transformers import AutoTokenizer, GenerationConfig

    with quiet():
        other = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        generation = (
            GenerationConfig.from_pretrained(str(folder))
            if (folder / "generation_config.json").is_file()
            else None
        )
    if difference := _rules_differ(tokenizer, other):
        return difference
    if tokenizer.chat_template != other.chat_template:
        templates = [f"{t.chat_template!r:.60}" for t in (other, tokenizer)]
        return f"chat_template {templates[0]}, the model's {templates[1]}"
    if generation is None and (folder / "config.json").is_file():
        stored = _json(folder / "config.json")
        generation = GenerationConfig(eos_token_id=stored.get("eos_token_id"))
    other_ends = end_tokens(generation, other)
    if other_ends != ends and (generation is not None or not other_ends <= ends):
        return f"eos_token_id {sorted(other_ends)}, the model's {sorted(ends)}"
    return ""


def _rules_differ(tokenizer: Any, other: Any) -> str:
    """Other tokens, or the same ones made otherwise; two spellings of one rule are none."""
    own_rules, other_rules = rules(tokenizer), rules(other)
    if own_rules == other_rules:
        return ""
    if tokenizer.get_vocab() != other.get_vocab():
        return f"tokenizer of {len(other)} tokens, not all of them the model's {len(tokenizer)}"
    models = [r.get("model") for r in (own_rules, other_rules)]
    merges = [m.get("merges") if isinstance(m, dict) else None for m in models]
    if merges[0] != merges[1]:
        return "merges of the tokenizer"
    for text in _PROBES:
        ways = [
            (t.encode(text), t.encode(text, add_special_tokens=False)) for t in (tokenizer, other)
        ]
        if ways[0] != ways[1]:
            return f"tokenizer, which reads {text[:12]!r} as {ways[1][0][:4]}, not {ways[0][0][:4]}"
        if tokenizer.decode(ways[0][0]) != other.decode(ways[0][0]):
            return f"tokenizer, which writes {ways[0][0][:4]} as {other.decode(ways[0][0])!r:.20}"
    return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        fields = read_json(path)
    except (OSError, ValueError) as error:
        raise BasinscopeError(
            f"cannot read {path} ({error})", "a JSON object", "copy it again"
        ) from error
    if not isinstance(fields, dict):
        raise BasinscopeError(
            f"{path} is no JSON object", "an object, as save_pretrained writes it", "copy it again"
        )
    return fields
