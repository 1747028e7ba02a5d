"""From a recipe's texts to tokens: a BPE of its own, tokenised once, kept in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from basinscope import files
from basinscope.engines.sources import cache_error, cache_folder
from basinscope.errors import BasinscopeError
from basinscope.widening.text import SEPARATOR, Parts

LEAST_BPE = 257  # every byte, and the end of a text
MADE = "made.json"
_PARTS = ("train.bin", "validation.bin")  # int32, little-endian
_SCHEME = "widen-tokens/2"  # change it with anything that changes a token


@dataclass(frozen=True)
class Stream:
    """Tokens of one text: windows of ``context`` tokens, each with the token that follows.

    Attributes:
        train: int32, (n,); passages one after another, each ended by the end-of-text token.
        validation: alike.
        digest: sha256 of both.
    """

    train: torch.Tensor
    validation: torch.Tensor
    digest: str

    def windows(self, context: int) -> int:
        """Number of training windows that do not overlap (but in the token that follows)."""
        return (len(self.train) - 1) // context


def tokenizer_of(choice: int | str, text: Parts) -> Any:
    """A tokenizer: byte-level BPE trained on the training part, or one by name.

    Raises:
        BasinscopeError: a BPE too small for bytes; an unknown name; a tokenizer without a fast form
            or an end token.
    """
    from transformers import AutoTokenizer

    if isinstance(choice, int):
        if choice < LEAST_BPE:
            raise BasinscopeError(f"tokenizer: {choice}", f"{LEAST_BPE} or more", f"{LEAST_BPE}")
        folder = _kept(f"bpe\0{choice}\0{text.digest}", lambda to: _train(choice, text, to))
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(choice, trust_remote_code=False)
    except Exception as error:
        raise BasinscopeError(
            f"cannot load the tokenizer {choice!r} ({' '.join(str(error).split())[:120]})",
            "a hub id, a folder, or the size of a BPE to be trained on the text",
            "check the spelling and the network; --dry-run needs neither",
        ) from None
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise BasinscopeError(
            f"the tokenizer {choice!r} has no {'end token' if tokenizer.is_fast else 'fast form'}",
            "one with both, to tokenise a long text and to end each passage",
            "take another one, or the size of a BPE to be trained on the text",
        )
    return tokenizer


def stream(tokenizer: Any, text: Parts) -> Stream:
    """Both parts of a text as tokens, mapped from the cache."""
    own = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    folder = _kept(f"tokens\0{own}\0{text.digest}", lambda to: _encode(tokenizer, text, to))
    digests = json.loads((folder / MADE).read_text(encoding="utf-8"))
    train, validation = (_mapped(folder / name) for name in _PARTS)
    return Stream(train, validation, digests["sha256"])


def order(windows: int, first: int, count: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Windows at places ``first .. first+count`` of the order in which they are learnt.

    Every pass over the text is a permutation of its own, named by (seed, pass): what a step sees
    is a function of the seed and its place alone.

    >>> sorted(order(4, 4, 4, seed=0).tolist())
    [0, 1, 2, 3]
    """
    ordered: list[int] = []
    while len(ordered) < count:
        turn, place = divmod(first + len(ordered), windows)
        missing = count - len(ordered)
        ordered.extend(_shuffled(windows, seed, turn)[place : place + missing].tolist())
    return np.array(ordered, dtype=np.int64)


@lru_cache(maxsize=2)  # between two passes
def _shuffled(windows: int, seed: int, turn: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.Generator(np.random.Philox(key=[seed, turn])).permutation(windows)


def batch(tokens: torch.Tensor, chosen: Sequence[int], context: int) -> torch.Tensor:
    """Windows as rows of int64, (len(chosen), context + 1)."""
    places = torch.as_tensor(chosen)[:, None] * context + torch.arange(context + 1)
    return tokens[places].long()


def _train(size: int, text: Parts, folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare.train_from_iterator((p for held_out, p in text.passages() if not held_out), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token=SEPARATOR, eos_token=SEPARATOR
    ).save_pretrained(folder)


def _mapped(path: Path) -> torch.Tensor:
    size = path.stat().st_size // 4
    if not size:
        return torch.empty(0, dtype=torch.int32)
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.int32)


def _encode(tokenizer: Any, text: Parts, folder: Path) -> dict[str, Any]:
    """Write the tokens of both parts, each passage ended by the end-of-text token; their sha256."""
    end, passages = tokenizer.eos_token_id, text.passages()
    digests = [hashlib.sha256() for _ in _PARTS]
    with (folder / _PARTS[0]).open("wb") as train, (folder / _PARTS[1]).open("wb") as validation:
        while some := list(islice(passages, 1000)):
            many = tokenizer.backend_tokenizer.encode_batch(
                [passage for _, passage in some], add_special_tokens=False
            )
            for (held_out, _), one in zip(some, many, strict=True):
                data = np.array([*one.ids, end], dtype="<i4").tobytes()
                (validation if held_out else train).write(data)
                digests[held_out].update(data)
    return {"sha256": "+".join(digest.hexdigest() for digest in digests)}


def _kept(key: str, make: Callable[[Path], dict[str, Any] | None]) -> Path:
    """Folder of the cache under the hash of a key; made where it is missing, and then whole."""
    name = hashlib.sha256(f"{_SCHEME}\0{key}".encode()).hexdigest()[:32]
    folder = cache_folder() / "widen" / name
    if (folder / MADE).is_file():
        return folder
    with files.whole_folder(folder, cache_error, shared=True) as draft:
        (draft / MADE).write_text(json.dumps(make(draft) or {}), encoding="utf-8")
    return folder
