"""Damage every file that the program reads, and read it: an answer or one line of refusal.

    python -m tests.fuzz.files --seed 1 --inputs 10000
    python -m tests.fuzz.files --seed 1 --only adapter:137      # one input again, with its traceback

Each input is a copy of a small valid folder with one file damaged (`mutations`), read as a user
would read it. It must be read or refused by a `BasinscopeError` within `LIMIT_S`, in at most
`LIMIT_BYTES` more memory than before; what carries a checksum must be read right. Inputs are read in
a child process, which a parent kills when an input takes too long: no signal reaches a thread that
waits for a FIFO.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import run_folders
import torch
import toys

import basinscope as bs
from basinscope import folders
from basinscope.report.text import summary
from basinscope.widening.run import Widening
from fuzz.mutations import damage

LIMIT_S, LIMIT_BYTES = 30.0, 2 << 30


class Kind(NamedTuple):
    """Files of a kind: how they are made, and how a user reads them."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    share: int = 4  # of the inputs
    damaged: tuple[str, ...] = ("**/*",)


# --- runs ---------------------------------------------------------------------------------------


def read_run(folder: Path) -> object:
    folders.verify(folder)
    if folders.header.KINDS[folders.header.kind_of(folder)].header != "run.json":
        json.dumps(folders.progress(folder))
    record = bs.load_run(folder)
    if isinstance(record, bs.Landscape):
        json.dumps(summary(record))
    elif isinstance(record, Widening):
        bs.compare(folder).text()
    trials = getattr(record, "trials", None)
    if trials is not None:  # every one that is believed is one that was written
        return {trial.address: trial for trial in trials}
    if hasattr(record, "summary"):
        json.dumps(record.summary())
    str(record)
    return None


def run_kind(kind: str) -> Kind:
    return Kind(run_folders.MAKE[kind], read_run)


@cache
def engine() -> bs.Engine:
    return bs.load(toys.tiny_model(), tokenizer=toys.tiny_tokenizer())


class Interrupted(BaseException):
    """As Ctrl-C."""


def interrupted(measure: Callable[..., object]) -> Callable[[Path], None]:
    """A run that ends after its first step or two."""

    def make(folder: Path) -> None:
        def stop(done: int, planned: int, place: str) -> None:
            if done:
                raise Interrupted

        with contextlib.suppress(Interrupted):
            measure(folder, progress=stop)

    return make


# --- models and directions ----------------------------------------------------------------------


def make_checkpoint(folder: Path) -> None:
    toys.write_checkpoint(folder, seed=1)


def make_shards(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    make_checkpoint(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {}
    for n, part in enumerate((names[::2], names[1::2])):
        file = f"model-{n}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )


def read_model(folder: Path) -> None:
    bs.load(folder, dtype="float32", device="cpu")


def look_at(line: bs.Direction) -> None:
    """Everything of a direction: its fit, its bytes, and where the other model sits."""
    line.fit(engine())
    line.identity(engine())
    line.sits_at(engine())


def read_toward(folder: Path) -> None:
    look_at(bs.direction(f"to:{folder}"))


def make_saved(folder: Path) -> None:
    from basinscope.directions.saved import save_direction

    tensors = {name: torch.randn(shape) for name, shape in engine().shapes.items()}
    names = sorted(tensors)
    kept = {name: tensors[name] for name in names[1:]}
    save_direction(
        folder / "direction.safetensors", kept, {"seed": 1}, displacement=2.0, zero=names[:1]
    )


def read_saved(folder: Path) -> None:
    look_at(bs.direction(f"saved:{folder / 'direction.safetensors'}"))


def make_adapter(folder: Path) -> None:
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(
            toys.tiny_model(),
            peft.LoraConfig(r=2, target_modules=["c_attn"], alpha_pattern={"c_attn": 3}),
        )
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1)
        model.save_pretrained(folder)


def read_adapter(folder: Path) -> None:
    from basinscope.geometries.words import builder

    look_at(bs.direction(f"adapter:{folder}"))
    builder(f"lora:{folder}")(engine())


def make_gguf(folder: Path) -> None:
    """A Llama of one layer, with a byte-level tokenizer of a few tokens."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(folder / "toy.gguf", "llama")
    width, tokens = 32, [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ", "ab", "cd", "<s>", "</s>"]
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 2) + [3, 3])
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    shapes = {"token_embd.weight": (len(tokens), width), "output_norm.weight": (width,)}
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        shapes[f"blk.0.{name}.weight"] = (width, width)
    for name in ("attn_norm", "ffn_norm"):
        shapes[f"blk.0.{name}.weight"] = (width,)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.full(shape, 0.5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(folder: Path) -> None:
    os.environ["BASINSCOPE_CACHE"] = str(folder / "cache")
    bs.load(folder / "toy.gguf", dtype="float32", device="cpu")


# --- tasks and data -----------------------------------------------------------------------------

SUBJECT = "anatomy"


def make_data(folder: Path) -> None:
    for split in ("dev", "test"):
        (folder / "mmlu" / split).mkdir(parents=True)
        with (folder / "mmlu" / split / f"{SUBJECT}_{split}.csv").open("w", newline="") as file:
            rows = [
                [f"What is {i} + 1?", str(i + 1), "or, more", '"none"', str(-i), "ABCD"[i % 4]]
                for i in range(5)
            ]
            csv.writer(file).writerows(rows)
    for name, rows in {
        "gsm8k/train.jsonl": [
            {"question": f"{i} + 1?", "answer": f"so #### {i + 1}"} for i in range(8)
        ],
        "gsm8k/test.jsonl": [
            {"question": f"{i} + 2?", "answer": f"so #### {i + 2}"} for i in range(3)
        ],
    }.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "advbench").mkdir()
    (folder / "advbench" / "harmful_behaviors.csv").write_text(
        'goal,target\n"Do, x","Sure, x"\nDo y,Sure\n'
    )
    (folder / "humaneval").mkdir()
    problem = {
        "task_id": "HumanEval/0",
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "test": "def check(f): f(1)",
    }
    with gzip.open(folder / "humaneval" / "HumanEval.jsonl.gz", "wt") as file:
        file.write((json.dumps(problem) + "\n") * 2)


def read_data(folder: Path) -> None:
    for word in (f"mmlu:{SUBJECT}", f"mmlu-gen-chat:{SUBJECT}", "gsm8k", "advbench", "humaneval"):
        with contextlib.suppress(bs.BasinscopeError):
            bs.tasks(word, data_dir=folder, allow_code_execution=True)


def make_text(folder: Path) -> None:
    (folder / "text.txt").write_text("The cat sat on the mat, and then it slept. " * 20)


def read_text(folder: Path) -> None:
    from basinscope.attack.objective import _of_text  # a text file is attacked as it stands

    with contextlib.suppress(bs.BasinscopeError):
        bs.tasks(f"nll:{folder / 'text.txt'}")
    with contextlib.suppress(bs.BasinscopeError):
        _of_text(engine(), folder / "text.txt", 2, 0, lambda text: text)


def make_lm_eval(folder: Path) -> None:
    import yaml

    rows = [{"q": f"Which is {i}?", "options": ["one", "three"], "a": i % 2} for i in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {
        "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    toy = {"task": "toy", "include": "base.yml", "doc_to_text": "{{q}}", "doc_to_choice": "options",
           "doc_to_target": "a"}  # fmt: skip
    (folder / "base.yml").write_text(yaml.safe_dump(base))
    (folder / "toy.yaml").write_text(yaml.safe_dump(toy))
    (folder / "many.yaml").write_text(yaml.safe_dump({"group": "many", "task": ["toy"]}))


def read_lm_eval(folder: Path) -> None:
    import datasets

    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    bs.tasks(f"lm-eval:{folder}")


ALPACA = [{"instruction": f"add {i}", "input": "", "output": f"{i + 1}"} for i in range(4)]
CHAT = [
    {"messages": [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": "yes"}]}
    for i in range(3)
]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]}
] * 3


def make_training(folder: Path) -> None:
    for name, rows in {"alpaca": ALPACA, "chat": CHAT, "sharegpt": SHAREGPT}.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
        (folder / f"{name}.json").write_text(json.dumps(rows))
        with gzip.open(folder / f"{name}.jsonl.gz", "wt") as file:
            file.write(lines)
    with (folder / "alpaca.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ALPACA[0]))
        writer.writeheader()
        writer.writerows(ALPACA)


def read_training(folder: Path) -> None:
    from basinscope.finetuning.recipes import given_data

    for path in sorted(folder.iterdir()):
        with contextlib.suppress(bs.BasinscopeError):
            given_data(path)


def make_recipe(folder: Path) -> None:
    import yaml

    (folder / "old.txt").write_text(
        "\n<|endoftext|>\n".join(f"story {i} is old. " * 30 for i in range(20))
    )
    recipe = {
        "model": {"layers": 1, "width": 16, "heads": 2}, "tokenizer": 300,
        "text": {"files": ["old.txt"], "hold_out": 0.2}, "tokens": 7680, "repeat": 6, "context": 16,
        "batch": 8, "lr": 0.02, "compute": "float32", "methods": ["adamw", {"go": {"sigma": 0.01}}],
        "seeds": [0], "measure": {"windows": 8, "validation": 16, "draws": 6},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def read_recipe(folder: Path) -> None:
    bs.widen(folder / "recipe.yaml", dry_run=True, data_dir=folder).summary()


KINDS = {
    **{kind: run_kind(kind) for kind in run_folders.MAKE},
    "resumed fine-tune": Kind(interrupted(run_folders.finetune), run_folders.finetune, 3),
    "resumed attack": Kind(interrupted(run_folders.attack), run_folders.attack, 3),
    "model": Kind(make_checkpoint, read_model, 8),
    "shards": Kind(make_shards, read_model, 2, ("*.safetensors*",)),
    "to:": Kind(make_checkpoint, read_toward),
    "to: of shards": Kind(make_shards, read_toward, 4, ("*.safetensors*",)),
    "saved:": Kind(make_saved, read_saved),
    "adapter": Kind(make_adapter, read_adapter, 6, ("adapter*",)),
    "GGUF": Kind(make_gguf, read_gguf, 6),
    "benchmarks": Kind(make_data, read_data, 6),
    "text": Kind(make_text, read_text, 2),
    "lm-eval": Kind(make_lm_eval, read_lm_eval, 6),
    "training data": Kind(make_training, read_training, 8),
    "recipe": Kind(make_recipe, read_recipe, 6),
}


# --- the harness --------------------------------------------------------------------------------


class Input(NamedTuple):
    """One damaged copy, named by a number among those of its kind."""

    kind: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.number}"


class Outcome(NamedTuple):
    """What came of an input: ``read``, ``refused``, or the fault."""

    fault: str
    how: str = ""
    trace: str = ""


GOOD = ("read", "refused")


def planned(count: int, kinds: Sequence[str] = tuple(KINDS)) -> list[Input]:
    """So many inputs of all kinds, by their shares."""
    shares = {kind: KINDS[kind].share for kind in kinds}
    total = sum(shares.values())
    return [
        Input(kind, n) for kind, share in shares.items() for n in range(-(-count * share // total))
    ]


def damaged(one: Input, seed: int, originals: Path, copy: Path) -> str:
    """Make a copy with one file damaged; says which, and how."""
    kind = KINDS[one.kind]
    rng = random.Random(f"{seed}:{one.name}")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(originals / one.kind, copy)
    relocate(copy)
    files = sorted({p for pattern in kind.damaged for p in copy.glob(pattern) if p.is_file()})
    victim = rng.choice(files)
    return f"{victim.relative_to(copy)}, {damage(rng, victim)}"


def attempt(one: Input, copy: Path, truth: object, how: str) -> Outcome:
    """Read a damaged copy."""
    try:
        value = KINDS[one.kind].read(copy)
    except bs.BasinscopeError as error:
        return Outcome("refused" if all(error.args) else "a refusal without its three parts", how)
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/basinscope/" in frame.filename]
        place = (
            f"{ours[-1].filename.rpartition('/basinscope/')[2]}:{ours[-1].name}" if ours else "?"
        )
        return Outcome(
            f"{type(error).__name__} in {place}", how, traceback.format_exc(limit=-12)[-3000:]
        )
    if isinstance(truth, dict) and not all(truth.get(key) == row for key, row in value.items()):
        return Outcome("read wrongly", how)
    return Outcome("read", how)


def relocate(copy: Path) -> None:
    """Name in a YAML file of lm-eval's the copy's own rows."""
    base = copy / "base.yml"
    if base.exists():
        lines = base.read_text().splitlines()
        base.write_text(
            "\n".join(
                f"    test: {copy / 'rows.jsonl'}" if "rows.jsonl" in line else line
                for line in lines
            )
        )


def work(
    inputs: Sequence[Input], seed: int, originals: Path, truths: dict[str, Any], out: int
) -> None:
    """Read inputs in this process, a line before and after each."""
    size = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmSize")
    )
    resource.setrlimit(
        resource.RLIMIT_AS, (int(size.split()[1]) * 1024 + LIMIT_BYTES, resource.RLIM_INFINITY)
    )
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        for one in inputs:
            copy = Path(scratch) / "copy"
            how = damaged(one, seed, originals, copy)
            os.write(out, f"{json.dumps(how)}\n".encode())
            outcome = attempt(one, copy, truths[one.kind], how)
            os.write(out, f"{json.dumps(outcome)}\n".encode())


def outcomes(
    inputs: Sequence[Input], seed: int, originals: Path, truths: dict[str, Any]
) -> Iterator[tuple[Input, Outcome]]:
    """What came of every input; a child that hangs or dies costs that input alone."""
    waiting = list(inputs)
    while waiting:
        reading, writing = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.setsid()
            try:
                work(waiting, seed, originals, truths, writing)
            except BaseException as error:  # of the harness
                os.write(writing, f"{json.dumps(f'the harness: {error!r}')}\n".encode())
            os._exit(0)
        os.close(writing)
        fault, how, buffer = "", "", b""
        while not fault:
            if not select.select([reading], [], [], LIMIT_S)[0]:
                fault = f"no end after {LIMIT_S:g} s"
            elif part := os.read(reading, 1 << 20):
                buffer += part
                *lines, buffer = buffer.split(b"\n")
                for said in map(json.loads, lines):
                    if isinstance(said, str):
                        how = said
                    else:
                        yield waiting.pop(0), Outcome(*said)
            else:
                fault = "the process died"
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if waiting:
            yield waiting.pop(0), Outcome(fault, how)


def prepared(kinds: Sequence[str], originals: Path) -> dict[str, Any]:
    """Write the valid folder of every kind, and read each: what a right reading gives."""
    truths = {}
    for kind in kinds:
        folder = originals / kind
        if KINDS[kind].read is not read_run:
            folder.mkdir(parents=True)
        KINDS[kind].make(folder)
        copy = Path(shutil.copytree(folder, originals / "copy"))
        relocate(copy)
        try:
            truths[kind] = KINDS[kind].read(copy)
        finally:
            shutil.rmtree(copy)
    return truths


def fuzz(seed: int, inputs: Sequence[Input]) -> Iterator[tuple[Input, Outcome]]:
    """Outcomes of inputs."""
    with tempfile.TemporaryDirectory() as folder:
        originals, quiet = Path(folder), io.StringIO()
        kinds = list(dict.fromkeys(one.kind for one in inputs))
        with warnings.catch_warnings(), contextlib.redirect_stderr(quiet):
            warnings.simplefilter("ignore")
            truths = prepared(kinds, originals)
        yield from outcomes(inputs, seed, originals, truths)


def until_interrupted(pairs: Iterator[Any]) -> Iterator[Any]:
    with contextlib.suppress(KeyboardInterrupt):
        yield from pairs


def main(words: Sequence[str] | None = None) -> int:
    """The long form: counts by kind and fault, and an input of each fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind; repeats")
    parser.add_argument("--only", help="KIND:NUMBER, with its traceback")
    given = parser.parse_args(words)
    inputs = planned(given.inputs, given.kind or tuple(KINDS))
    random.Random(given.seed).shuffle(inputs)
    if given.only:
        kind, _, number = given.only.rpartition(":")
        inputs = [Input(kind, int(number))]
    counts: Counter[str] = Counter()
    faults: dict[tuple[str, str], list[tuple[Input, Outcome]]] = {}
    for one, outcome in until_interrupted(fuzz(given.seed, inputs)):
        counts[outcome.fault if outcome.fault in GOOD else "faults"] += 1
        if outcome.fault not in GOOD:
            faults.setdefault((one.kind, outcome.fault), []).append((one, outcome))
        elif given.only:
            print(outcome)
    print(
        f"{sum(counts.values())} of {len(inputs)} inputs, seed {given.seed}: "
        + ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    )
    for (kind, fault), cases in sorted(
        faults.items(), key=lambda entry: (entry[0][0], -len(entry[1]))
    ):
        one, outcome = cases[0]
        print(f"{len(cases):5} {kind}: {fault} (as {one.name}: {outcome.how})")
        if given.only:
            print(outcome.trace)
    return bool(faults)


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    sys.exit(main())
