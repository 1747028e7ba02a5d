"""A run folder of every kind, made of toys."""

from __future__ import annotations

import json

import torch
from toys import tiny_model, tiny_tokenizer

import basinscope as bs
from basinscope.certify import certify_tokens

ITEMS = 12


def layer() -> bs.Engine:
    module = torch.nn.Linear(ITEMS, 1, bias=False)
    torch.nn.init.constant_(module.weight, 1.0)
    return bs.load(module)


def positive() -> bs.CallableTask:
    return bs.CallableTask("positive", lambda m: (m.weight[0] > 0).int(), n_items=ITEMS)


def landscape(run):
    return bs.landscape(layer(), positive(), steps=[0.5], draws=2, run=run)


def surface(run):
    a, b = bs.Random(0), bs.Random(1)
    return bs.surface(layer(), positive(), a, b, xs=[0.0, 0.5], ys=[0.0], run=run)


def check(run):
    return bs.check(layer(), "pruned:0.25", positive(), run=run)


def certificate(run):
    return bs.certify(layer(), positive(), sigma=0.3, draws=60, items_per_draw=4, run=run)


def strict_basin(run):
    return bs.strict_basin(layer(), positive(), sigmas=[0.01, 3.0], run=run)


def token_certificate(run):
    engine = bs.load(tiny_model(), tokenizer=tiny_tokenizer())
    (task,) = bs.tasks("basic", limit=2)
    return certify_tokens(engine, task, sigma=0.02, draws=7, confidence=0.5, run=run)


def attack(run, **options):
    loss = {"loss": lambda module: -module.weight.sum()}["loss"]
    return bs.attack(layer(), loss, measure=[positive()], steps=6, radius=1.0, run=run, **options)


def finetune(run, **options):
    engine = bs.load(tiny_model(), tokenizer=tiny_tokenizer())
    rows = [{"instruction": f"add {i}", "output": f"{i + 1}"} for i in range(4)]
    return bs.finetune(engine, rows, run=run, steps=2, batch=2, save_every=1, **options)


def widen(run):
    numbers = {"nll": 3.0, "rms": 0.1, "score": 0.3, "nll_at_zero": 3.0}
    row = {
        "method": {"name": "adamw"}, "label": "adamw", "seed": 0, "state": "done", "stopped": "",
        "size": 10, "tokens": 100, "steps": 5, "passes": 1.0, "train_s": 1.0, "step_s": None,
        "losses": [[5, 3.0]], "over_training": [], "finetune": [], **numbers,
    }  # fmt: skip
    spec = {"recipe": {"equal": "tokens"}, "text": "a", "rows": {"adamw-s0": {}, "go-s0": {}}}
    (run / "rows").mkdir(parents=True)
    (run / "rows" / "adamw-s0.json").write_text(json.dumps(row))
    header = {"kind": "widen", "format": 1, "spec": spec, "versions": {}, "threads": 1}
    (run / "widen.json").write_text(json.dumps(header))
    return bs.load_run(run)


MAKE = {
    "landscape": landscape, "surface": surface, "check": check, "certificate": certificate,
    "strict-basin": strict_basin, "token-certificate": token_certificate, "attack": attack,
    "finetune": finetune, "widen": widen,
}  # fmt: skip
