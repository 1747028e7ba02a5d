"""Every block of Python in the README and the docs runs, a page at a time, on a tiny model."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from doc_pages import PAGES, ROOT, blocks, name
from safetensors.torch import load_file, save_file
from toys import tiny_model, write_checkpoint
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import basinscope as bs
from basinscope.engines import sources
from basinscope.runs import executor
from basinscope.tasks import mini
from basinscope.tasks.base import Subset
from basinscope.widening import recipe

RUN = [page for page in PAGES if any(b.language == "python" for b in blocks(page))]
NOT_RUN = {"docs/how-to/comparison.md": 1}
"""How many blocks of a page are not run; each says why in a comment before it."""


@pytest.fixture(scope="module")
def easy(tmp_path_factory):
    """Of each shipped task of choices a dozen items that the tiny model answers right."""
    engine = bs.load(write_checkpoint(tmp_path_factory.mktemp("tiny")))
    items = bs.landscape(engine, bs.tasks("basic,math,code"), steps=[0]).items()
    right = items[items["outcome"] == 1].groupby("task")["item"].agg(list)
    return {task: set(ids[:12]) for task, ids in right.items()}


@pytest.fixture
def here(easy, tmp_path, monkeypatch):
    """A working directory in which `smollm2` is a tiny model, with the files that pages name."""

    def load(word, shipped=mini.load):
        task = shipped(word)
        ids = easy.get(word, {item.id for item in task.items[:12]})
        return Subset(task, tuple(item for item in task.items if item.id in ids))

    monkeypatch.setattr(mini, "load", load)
    monkeypatch.setattr(executor, "cores", lambda: 1)  # another process would load all items
    monkeypatch.delitem(sources.ALIASES, "smollm2")
    monkeypatch.setenv("BASINSCOPE_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "smollm2")
    for seed, folder in enumerate(("my-finetune", *CHECKPOINTS), start=1):
        write_checkpoint(tmp_path / folder, seed=seed)
    rows = [{"instruction": f"say {i}", "output": f"{i}"} for i in range(4)]
    for file, text in {
        "book.txt": "It was a bright cold day in April. " * 20,
        "mine.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "data/advbench/harmful_behaviors.csv": "goal,target\nharm,Sure\n",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    return tmp_path


CHECKPOINTS = ("training-run/checkpoint-1", "training-run/checkpoint-2")


def training(here):
    """What a reader of the page on training has already: a model, data, a loop's parts."""
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 99, (4, 16))]
    return {
        "torch": torch, "bs": bs, "Trainer": Trainer, "rows": rows,
        "model": tiny_model(), "data": DataLoader(rows, batch_size=2),
        "args": TrainingArguments(
            "trained", max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True
        ),
        "accelerator": Accelerator(cpu=True), "warmup": lambda step: min(1.0, step / 10),
        "a": {"input_ids": rows[0]["input_ids"][None], "labels": rows[0]["labels"][None]},
        "b": {"input_ids": rows[1]["input_ids"][None], "labels": rows[1]["labels"][None]},
    }  # fmt: skip


def certified(here):
    """A pilot and a fine-tune that moved one tensor alike, which the tasks hardly use."""
    base = load_file(here / "smollm2" / "model.safetensors")
    displacement = {name: torch.zeros_like(tensor) for name, tensor in base.items()}
    displacement["transformer.wpe.weight"][-20:] = 1.0
    for folder in ("pilot/step-20", "pilot/step-40"):
        shutil.copytree(here / "smollm2", here / folder)
        moved = {name: tensor + displacement[name] for name, tensor in base.items()}
        save_file(moved, here / folder / "model.safetensors", metadata={"format": "pt"})
    return {"displacement": displacement}


def wide(here):
    """A model with rows that are longer than a group of a quantised copy."""
    config = GPT2Config(vocab_size=99, n_positions=256, n_embd=192, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(here / "smollm2")
    return {}


BEFORE = {
    "docs/how-to/certificates.md": certified,
    "docs/how-to/directions.md": wide,
    "docs/how-to/widening.md": training,
}


@pytest.mark.parametrize("page", RUN, ids=name)
def test_the_blocks_of_a_page_run_in_order(page, here):
    names = {"__name__": "__main__", **BEFORE.get(name(page), lambda here: {})(here)}
    for block in blocks(page):
        if block.language == "python" and not block.reason:
            code = "\n" * (block.line - 1) + block.text  # so that an error has the page's line
            exec(compile(code, str(page), "exec"), names)


def test_the_recipe_of_a_page_is_one():
    (block,) = (b for b in blocks(ROOT / "docs/how-to/widen.md") if b.language == "yaml")
    study, _ = recipe.read(yaml.safe_load(block.text))
    assert study.seeds == (0, 1, 2)


def test_few_blocks_are_not_run_and_each_says_why():
    skipped = {name(page): sum(bool(b.reason) for b in blocks(page)) for page in PAGES}
    assert {page: count for page, count in skipped.items() if count} == NOT_RUN
