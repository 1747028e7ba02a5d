"""Toy models built in code: the suite needs no weights, no network and no data."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch import nn


def tiny_tokenizer():
    """Word-level tokenizer of printable characters, with a chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = [chr(c) for c in range(32, 127)] + ["\n"]
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2}
    vocabulary |= {c: i + 3 for i, c in enumerate(characters)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    return fast


def tiny_model(kind: str = "gpt2", *, seed: int = 0, dtype: torch.dtype = torch.float32):
    """One-layer GPT-2 or two-layer Llama with 98 tokens; tied embeddings in both."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "gpt2":
            config = GPT2Config(
                vocab_size=99, n_positions=256, n_embd=32, n_layer=1, n_head=2,
                bos_token_id=0, eos_token_id=1,
            )  # fmt: skip
            model = GPT2LMHeadModel(config)
        else:
            config = LlamaConfig(
                vocab_size=99, max_position_embeddings=256, hidden_size=32, intermediate_size=64,
                num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
            )  # fmt: skip
            model = LlamaForCausalLM(config)
        for parameter in model.parameters():  # far enough from uniform to have an opinion
            parameter.data.mul_(4.0)
    return model.to(dtype).eval()


def write_checkpoint(folder: Path, kind: str = "gpt2", **options) -> Path:
    """Folder as ``save_pretrained`` leaves it."""
    tiny_model(kind, **options).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


class Wrapper(nn.Module):
    """Holds a module under the attribute that a real wrapper uses."""

    def __init__(self, module, attribute="module"):
        super().__init__()
        self.add_module(attribute, module)


class DistributedDataParallel(Wrapper):
    """Torch's needs a process group; only its name and its attribute matter here."""


WRAPPED = {
    "bare": lambda m: m,
    "DataParallel": nn.DataParallel,
    "DDP": DistributedDataParallel,
    "compile": lambda m: Wrapper(m, "_orig_mod"),
    "FSDP": lambda m: Wrapper(m, "_fsdp_wrapped_module"),
    "DDP(compile)": lambda m: DistributedDataParallel(Wrapper(m, "_orig_mod")),
    "compile(DDP)": lambda m: Wrapper(DistributedDataParallel(m), "_orig_mod"),
}


class Modular(nn.Module):
    """Zeros at the paths that are given, such as ``a.module``: named as DDP names what it wraps."""

    def __init__(self, *paths):
        super().__init__()
        for path in paths:
            self.set_submodule(path, nn.Module())
            self.get_submodule(path).w = nn.Parameter(torch.zeros(5))


DTYPES = (torch.float32, torch.bfloat16)
AGREE = 0.9  # of the texts of a company, where sums are not in one order: roundings flip a few
NEAR = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # relative: some roundings of a toy's logits


@functools.cache
def sums_in_one_order(dtype: torch.dtype) -> bool:
    """Whether this CPU's kernels give a row of a toy the same bits in any company.

    That is the premise of bit-identical batches (`basinscope.engines.orders`), and a property of
    torch's libraries on a processor, not of this program.
    """
    from basinscope.engines.orders import least_rows

    if any(least_rows(tiny_model(kind, dtype=dtype)) != 4 for kind in ("gpt2", "llama")):
        return False
    generator = torch.Generator().manual_seed(0)
    for size in (8, 16):
        q, k, v = torch.randn(3, 2, 4, 24, size, generator=generator).to(dtype)
        seen = torch.ones(24, 24, dtype=torch.bool).tril()
        attended = []
        for slots in (32, 64, 112, 192):
            k_, v_ = (torch.nn.functional.pad(t, (0, 0, 0, slots - 24)) for t in (k, v))
            mask = torch.nn.functional.pad(seen, (0, slots - 24))
            attend = torch.nn.functional.scaled_dot_product_attention
            attended.append(attend(q, k_, v_, attn_mask=mask))
        if not all(torch.equal(attended[0], other) for other in attended[1:]):
            return False
    return True


def mode() -> str:
    """Which way answers are compared here, in words."""
    ways = (
        f"{str(dtype).removeprefix('torch.')} "
        + ("bit for bit" if sums_in_one_order(dtype) else "up to rounding")
        for dtype in DTYPES
    )
    return f"answers in different company are compared: {', '.join(ways)}"


def same(answers, expected, dtype: torch.dtype = torch.float32) -> bool:
    """Bit-identical answers of toys in this dtype; where sums are not in one order, alike.

    Alike: likelihoods up to `NEAR`, and at least a share `AGREE` of the texts (all but one of few).
    """
    if sums_in_one_order(dtype):
        return answers == expected
    return alike(answers, expected, dtype)


def alike(answers, expected, dtype: torch.dtype) -> bool:
    """Whether answers differ by what another order of sums may do, and not by more."""
    texts = flips = 0
    for a, b in zip(answers, expected, strict=True):
        if type(a) is not type(b) or a.failure != b.failure:
            return False
        for name in ("loglik", "logliks", "nll"):
            value, wanted = getattr(a, name, None), getattr(b, name, None)
            near = pytest.approx(wanted, rel=NEAR[dtype], abs=NEAR[dtype]) if wanted else wanted
            if value != near:
                return False
        if hasattr(a, "text"):
            texts, flips = texts + 1, flips + (a != b and a.text != b.text)
    return flips <= max(1, round((1 - AGREE) * texts))
