"""lm-eval itself, on the same items, prompts and model, gives every document the same value.

The tiny model in float32 must agree on all documents of hand-made tasks of every kind; SmolLM2 in
bfloat16 on a fixed sample of MMLU and GSM8K. `benchmarks/parity_lm_eval.py` is the larger one.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import random
import sys
from pathlib import Path

import pytest
import torch
import toys

import basinscope as bs
from basinscope.runs.bench import score
from basinscope.tasks import Generate

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
HERE = Path(__file__).parents[2]


def module_at(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


parity = module_at(HERE / "benchmarks" / "parity_lm_eval.py")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


# --- the tiny model ----------------------------------------------------------------------------


@functools.cache
def engine(kind):
    return bs.load(toys.tiny_model(kind), tokenizer=toys.tiny_tokenizer())


def metrics(*names):
    return [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in names]


WORDS = "ox bee cat dog elk fly gnu hen ibis jay".split()
QUESTIONS = [
    {
        "q": f"{'Say' if i % 2 else 'Tell me'} {i}",
        "options": random.Random(i).sample(WORDS, 4),
        "a": i % 4,
        "several": [i % 4, (i + 1) % 4],
        "end": f"is {i}.",
    }
    for i in range(24)
]
CHOICE = {"output_type": "multiple_choice", "doc_to_choice": "options", "doc_to_target": "a"}
ALL = metrics("acc", "acc_norm", "acc_bytes", "exact_match")
TASKS = {
    "shots": CHOICE | {
        "doc_to_text": "Q: {{q}}\nA:", "num_fewshot": 2, "description": "Animals {{a}}:\n\n",
        "fewshot_split": "train", "fewshot_config": {"sampler": "first_n"}, "metric_list": ALL,
    },
    "drawn_shots": CHOICE | {
        "doc_to_text": "Q: {{q}}\nA:", "num_fewshot": 3, "fewshot_split": "test",
        "fewshot_delimiter": "\n", "target_delimiter": "->", "metric_list": ALL,
    },
    "blank_at_the_end": CHOICE | {
        "doc_to_text": "Q: {{q}}\nA: ", "target_delimiter": "", "metric_list": ALL,
    },
    "no_context": CHOICE | {"doc_to_text": "", "metric_list": ALL},
    "mutual_information": CHOICE | {
        "doc_to_text": "{{q}}", "metric_list": metrics("acc_mutual_info", "acc"),
    },
    "several_right": CHOICE | {
        "doc_to_text": "{{q}}", "doc_to_target": "several", "metric_list": ALL,
    },
    "several_contexts": {
        "output_type": "multiple_choice", "doc_to_text": "{{a}}", "doc_to_target": "end",
        "doc_to_choice": "{{[q ~ options[0], q ~ options[1], q ~ options[2], q ~ options[3]]}}",
        "metric_list": ALL,
    },
    "last_word": {
        "output_type": "loglikelihood", "doc_to_text": "{{q}}", "doc_to_target": "{{greedy}}",
        "metric_list": metrics("acc"),
    },
    "written": {
        "doc_to_text": "{{q}}", "doc_to_target": "{{greedy}}",
        "metric_list": metrics("exact_match"),
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 6},
    },
    "written_after_a_word": {
        "doc_to_text": "{{q}}", "doc_to_target": "{{greedy}}", "gen_prefix": "So",
        "num_fewshot": 1, "fewshot_split": "train", "metric_list": metrics("exact_match"),
        "generation_kwargs": {"until": ["e", " "], "max_gen_toks": 6},
    },
    "choice_after_a_word": CHOICE | {
        "doc_to_text": "Q: {{q}}", "gen_prefix": "I say: ", "num_fewshot": 1,
        "fewshot_split": "train", "metric_list": ALL,
    },
    "written_with_filters": {
        "doc_to_text": "{{q}}", "doc_to_target": "{{greedy[:2]|trim}}",
        "metric_list": [{**metrics("exact_match")[0], "ignore_case": True}],
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6},
        "filter_list": [
            {"name": "two", "filter": [
                {"function": "regex", "regex_pattern": "^(..)"}, {"function": "take_first"},
            ]},
            {"name": "last", "filter": [
                {"function": "regex", "regex_pattern": "..", "group_select": -1},
                {"function": "take_first"},
            ]},
        ],
    },
    "written_one_of_several": {
        "doc_to_text": "{{q}}", "doc_to_target": "either", "metric_list": metrics("exact_match"),
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6},
    },
}  # fmt: skip
ASKED = [
    (name, metric["metric"], how)
    for name, task in TASKS.items()
    for metric in task["metric_list"]
    for how in [f["name"] for f in task.get("filter_list", [{"name": "none"}])]
]


def written(kind: str, prompts: list[str]) -> list[str]:
    """Greedy texts of six tokens, so that some documents are right."""
    found = []
    for prompt in prompts:
        tokens = toys.tiny_tokenizer().encode(prompt)
        for _ in range(6):
            with torch.inference_mode():
                tokens.append(
                    int(engine(kind).module(torch.tensor([tokens])).logits[0, -1].argmax())
                )
        found.append(toys.tiny_tokenizer().decode(tokens[len(prompt) :], skip_special_tokens=True))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of YAML for each model; half of the references are what it would write."""
    made = {}
    for kind in ("gpt2", "llama"):
        own = made[kind] = tmp_path_factory.mktemp(kind)
        greedy = written(kind, [row["q"] for row in QUESTIONS])
        rows = [
            row | {"greedy": text or "x", "either": ["no", text or "x"]} if i % 2
            else row | {"greedy": "no", "either": ["no", "nor"]}
            for i, (row, text) in enumerate(zip(QUESTIONS, greedy, strict=True))
        ]  # fmt: skip
        (own / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = dict.fromkeys(("test", "train"), str(own / "rows.jsonl"))
        for name, task in TASKS.items():
            whole = {
                "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files},
                "test_split": "test", "training_split": "train", **task,
            }  # fmt: skip
            (own / f"{name}.yaml").write_text(json.dumps(whole))
    return made


@functools.cache
def samples(kind, folder):
    """What lm-eval says of every document; one run of it for all tasks."""
    numbers = {name: list(range(len(QUESTIONS))) for name in TASKS}
    module, tokenizer = engine(kind).module, engine(kind).tokenizer
    return parity.reference(module, tokenizer, folder, numbers, batch_size=4)


def expected(kind, folder, name, how="none"):
    return [samples(kind, folder)[name, i, how] for i in range(len(QUESTIONS))]


@pytest.mark.parametrize(("name", "metric", "how"), ASKED, ids=map("-".join, ASKED))
def test_every_value_is_that_of_lm_eval(folder, name, metric, how):
    kind = "llama"
    (task,) = bs.tasks(f"lm-eval:{folder[kind]}/{name}@{metric}@filter={how}")
    theirs = expected(kind, folder[kind], name, how)
    outcomes = score(engine(kind), task)
    assert [float(o.correct) for o in outcomes] == [float(x[metric]) for x in theirs]
    for outcome in outcomes:
        assert outcome.margin is None or (outcome.margin > 0) == outcome.correct


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("name", TASKS)
def test_prompts_and_answers_are_those_of_lm_eval(folder, kind, name):
    how = next(h for n, _, h in ASKED if n == name)
    (task,) = bs.tasks(f"lm-eval:{folder[kind]}/{name}")
    for item, theirs in zip(task.items, expected(kind, folder[kind], name, how), strict=True):
        answers = engine(kind).answer(item.requests)
        if isinstance(item.requests[0], Generate):
            assert [r.prompt for r in item.requests] == [a[0] for a in theirs["arguments"]]
            assert [a.text for a in answers] == [texts[0] for texts in theirs["resps"]]
            continue
        asked = [r.prefix + r.context + c for r in item.requests for c in r.continuations]
        wanted = len(asked)  # a metric that is not asked for brings no requests of its own
        assert asked == [a + b for a, b in theirs["arguments"]][:wanted]
        pairs = [pair for (pair,) in theirs["resps"]][:wanted]
        ours = [x for a in answers for x in a.loglik]
        assert ours == pytest.approx([x for x, _ in pairs], rel=1e-4)
        assert [x for a in answers for x in a.greedy] == [x for _, x in pairs]


def test_the_comparison_has_right_and_wrong_documents(folder):
    """A comparison of zeros would prove nothing."""
    kind = "llama"
    for name, metric, how in ASKED:
        rare = name == "written_after_a_word" or how == "last"
        if rare or (metric == "exact_match" and "written" not in name):
            continue  # a choice that greedy decoding would write is too much to ask of this model
        found = {float(x[metric]) for x in expected(kind, folder[kind], name, how)}
        assert found == {0.0, 1.0}, (name, metric)


# --- chat templates ----------------------------------------------------------------------------

TEXT = "Be brief, a/b@c: 100%."
SYSTEM = "@system=" + TEXT.replace(",", "%2C")
BRACKETS = toys.tiny_tokenizer().chat_template
LINES = BRACKETS.replace("]", "]\n")  # the model speaks on a line of its own
# template, whether the tokenizer begins a text, the word's end, lm-eval's options
CHATS = {
    "turns": (BRACKETS, False, "@chat", {}),
    "one message": (BRACKETS, True, "@chat@multiturn=false", {"fewshot_as_multiturn": False}),
    "on a line": (LINES, False, "@chat@multiturn" + SYSTEM, {"system_instruction": TEXT}),
    "begun": ("<s>" + BRACKETS, True, "@chat" + SYSTEM, {"system_instruction": TEXT}),
    "no chat": (
        BRACKETS, False, SYSTEM, {"system_instruction": TEXT, "apply_chat_template": False}
    ),
}  # fmt: skip
CHATTED = (
    "shots", "drawn_shots", "mutual_information", "several_contexts", "last_word", "written",
    "written_after_a_word", "choice_after_a_word",
)  # fmt: skip
DOCUMENTS = 6


@functools.cache
def chat_engine(chat):
    template, begins, _, _ = CHATS[chat]
    tokenizer = toys.tiny_tokenizer()
    tokenizer.chat_template = template
    if begins:
        from tokenizers.processors import TemplateProcessing

        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    assert (tokenizer.encode("a")[0] == 0) == begins
    return bs.load(toys.tiny_model("llama"), tokenizer=tokenizer)


@functools.cache
def chat_samples(chat, folder):
    """lm-eval's samples of the first documents, by task and number, and the tokens it read."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    read = {}

    class Reading(HFLM):
        def _loglikelihood_tokens(self, requests, **options):
            read.update({texts: (begin, end) for texts, begin, end in requests})
            return super()._loglikelihood_tokens(requests, **options)

        def tok_batch_encode(self, strings, **options):
            tokens, mask = super().tok_batch_encode(strings, **options)
            read[strings[0]] = tokens[0].tolist()
            return tokens, mask

    module, tokenizer = chat_engine(chat).module, chat_engine(chat).tokenizer
    options = {"apply_chat_template": True, **CHATS[chat][3]}
    result = simple_evaluate(
        model=Reading(pretrained=module, tokenizer=tokenizer, batch_size=1, device="cpu"),
        tasks=list(CHATTED),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        limit=DOCUMENTS, bootstrap_iters=0, **options,
    )  # fmt: skip
    by_task = result["samples"].items()
    return {(name, s["doc_id"]): s for name, samples in by_task for s in samples}, read


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", CHATTED)
def test_chats_are_those_of_lm_eval(folder, chat, name):
    """Tokens read and scored, likelihoods, texts and every metric."""
    samples, read = chat_samples(chat, folder["llama"])
    engine = chat_engine(chat)
    for metric in (entry["metric"] for entry in TASKS[name]["metric_list"]):
        task = bs.tasks([f"lm-eval:{folder['llama']}/{name}@{metric}{CHATS[chat][2]}"])[0]
        for number, item in enumerate(task.items[:DOCUMENTS]):
            theirs = samples[name, number]
            answers = engine.answer(item.requests)
            assert task.oracle(item, answers).correct == bool(theirs[metric])
            rows = [engine._tokens.row(request) for request in item.requests]
            if isinstance(item.requests[0], Generate):
                assert [answer.text for answer in answers] == theirs["resps"][0]
                assert [*rows[0].head, *rows[0].body] == read[theirs["arguments"][0][0]]
                continue
            pairs = [
                ([*row.head, *row.body, *tail[:skip]], list(tail[skip:]))
                for row in rows
                for tail, skip in zip(row.tails, row.skips, strict=True)
            ]
            assert pairs == [read[tuple(texts)] for texts in theirs["arguments"]][: len(pairs)]
            said = [pair for (pair,) in theirs["resps"]][: len(pairs)]
            loglik = [x for answer in answers for x in answer.loglik]
            assert loglik == pytest.approx([x for x, _ in said], rel=1e-4)
            assert [x for answer in answers for x in answer.greedy] == [x for _, x in said]


def test_the_comparison_of_chats_has_right_and_wrong_documents(folder):
    values = {
        (metric, samples[name, number][metric])
        for chat in CHATS
        for samples in [chat_samples(chat, folder["llama"])[0]]
        for name, number in samples
        for metric in (entry["metric"] for entry in TASKS[name]["metric_list"])
    }
    assert values >= {(m, x) for m in ("acc", "acc_norm", "acc_bytes") for x in (0.0, 1.0)}


# --- SmolLM2 -----------------------------------------------------------------------------------

MMLU = {"anatomy": 8, "global_facts": 8, "human_aging": 8}
GSM8K = 6


@pytest.fixture(scope="module")
def real_data():
    given = os.environ.get("BASINSCOPE_DATA")
    data = Path(given) if given else HERE.parent / "shared" / "data"
    if not (data / "mmlu").is_dir() or not (data / "gsm8k").is_dir():
        pytest.skip("BASINSCOPE_DATA names no folder with the published benchmarks")
    return data


@pytest.mark.model
@pytest.mark.parametrize("kind", ["mmlu", "gsm8k"])
def test_parity_with_smollm2(smollm2, real_data, tmp_path, kind):
    """A fixed sample; GSM8K's texts are cut to 16 tokens, and compared word for word."""
    folder = parity.write_tasks(real_data, tmp_path / "tasks", tuple(MMLU))
    words = {word.format(folder=folder): how for word, how in parity.WAYS[kind].items()}
    if kind == "mmlu":
        wanted = [(f"mmlu_files_{name}", i) for name, n in MMLU.items() for i in range(n)]
        tasks = {word: (bs.tasks(word, data_dir=real_data)[0], how) for word, how in words.items()}
    else:
        cut = json.loads((folder / "gsm8k.yaml").read_text())
        stop = ["Question:", "</s>", "<|im_end|>"]
        cut["generation_kwargs"] = {"until": stop, "do_sample": False, "max_gen_toks": 16}
        (folder / "gsm8k.yaml").write_text(json.dumps(cut))
        wanted = [("gsm8k_files", i) for i in range(GSM8K)]
        tasks = {w: (bs.tasks(w)[0], how) for w, how in words.items() if w.startswith("lm-eval:")}
    lines = parity.compare(smollm2, folder, kind, wanted, tasks)
    found = [(line["item"], way, x) for line in lines for way, x in line["ways"].items()]
    assert len(found) == len(wanted) * len(tasks)
    assert [x for x in found if not x[2]["same_prompt"]] == []
    assert [x for x in found if x[2]["ours"] != x[2]["lm_eval"]] == []
    # texts part only where the two best logits are a rounding of 16 bits apart
    for _, _, x in found:
        if x["same_text"] is False:
            assert x["why"]["best"] - min(x["why"]["logits"]) <= 2**-6 * abs(x["why"]["best"]), x
