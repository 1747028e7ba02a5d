"""lm-eval tasks: words, what is refused and why, items, oracle. Parity: tests/equivalence."""

from __future__ import annotations

import importlib
import json
import logging
import random
import re

import numpy as np
import pytest

import basinscope as bs
from basinscope.runs.bench import score
from basinscope.tasks import Choices, Generate, Generation, Item, Outcome, Ranking
from basinscope.tasks.base import items_hash
from basinscope.tasks.lm_eval import configs, library
from basinscope.tasks.lm_eval.library import undisturbed
from basinscope.tasks.words import from_recipe, recipe

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

ROWS = [
    {"q": f"Which is {i}?", "options": ["one", "three", "five"], "a": i % 3, "text": f"it is {i}"}
    for i in range(6)
]
METRIC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
EXACT = METRIC | {"metric": "exact_match"}
CHOICE = {
    "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "options",
    "doc_to_target": "a", "metric_list": [METRIC, METRIC | {"metric": "acc_norm"}],
}  # fmt: skip
WRITE = {"doc_to_text": "{{q}}", "doc_to_target": "text", "metric_list": [EXACT]}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    import datasets

    folder = tmp_path_factory.getbasetemp() / "datasets"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def write(folder, name, settings, *, rows="rows.jsonl"):
    """A YAML file (JSON is YAML) of a task over the folder's rows."""
    whole = {
        "task": name, "dataset_path": "json", "test_split": "test", "training_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(folder / rows)}}, **settings,
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(whole))
    return path


def one(word, **options):
    (task,) = bs.tasks(word, **options)
    return task


def made(folder, settings, rest="", **options):
    return one(f"lm-eval:{write(folder, 'toy', settings)}{rest}", **options)


def refuses(match, word, **options):
    with pytest.raises(bs.BasinscopeError, match=match) as caught:
        bs.tasks(word, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    ["lm-eval:", "lm-eval:@acc", "lm-eval:x@", "lm-eval:x@acc@f1", "lm-eval:x@metric=acc@acc",
     "lm-eval:x@shots=many", "lm-eval:x@shots=-1", "lm-eval:x@filter=", "lm-eval:x@seed=1",
     "lm-eval:x@chat=chatml", "lm-eval:x@chat@chat", "lm-eval:x@chat@multiturn=perhaps",
     "lm-eval:x@chat@system=", "lm-eval:x@system", "lm-eval:x@filter"],
)  # fmt: skip
def test_a_word_of_no_sense_is_refused(word):
    refuses(r"allowed: .*lm-eval:NAME\[@METRIC\]", word)


def test_examples_as_turns_need_a_chat_as_with_lm_eval():
    for part in ("@multiturn", "@multiturn=false@system=Be brief."):
        said = refuses("@multiturn without @chat in task 'lm-eval:x", f"lm-eval:x{part}")
        assert "try: lm-eval:x@chat, " in said
    config = importlib.import_module("lm_eval.config.evaluate_config").EvaluatorConfig
    with pytest.raises(ValueError, match="`apply_chat_template` must be set"):
        config(fewshot_as_multiturn=True)._validate_arguments()
    theirs = config(apply_chat_template=True)._validate_arguments()
    assert theirs.fewshot_as_multiturn == configs.parse("lm-eval:x@chat").multiturn


def test_a_comma_of_the_system_message_is_written_otherwise():
    refuses("task 'please'; allowed", "basic,lm-eval:x@system=Be brief, please")
    word = configs.parse("lm-eval:x@system=Be brief%2C a@b/c:%0A100% or 50%25")
    assert (word.name, word.instruction) == ("x", "Be brief, a@b/c:\n100% or 50%")


def test_an_unknown_name_is_refused_with_near_ones():
    said = refuses("has no task 'gsm8kk'; allowed: one of its 1", "lm-eval:gsm8kk")
    assert "try: gsm8k" in said
    refuses(r"allowed: mini, .*lm-eval:NAME", "lm-evil:gsm8k")


def test_the_index_is_that_of_lm_eval(monkeypatch):
    """Reading a few keys of each file finds what lm-eval finds; here in three of its folders."""
    theirs, root = library.library().index.TaskIndex, library.library().root
    configs.packaged.cache_clear()
    folders = [root / name for name in ("mmlu", "toksuite", "aclue")]
    paths = [path for folder in folders for path in theirs._iter_yaml_files(folder)]
    monkeypatch.setattr(theirs, "_iter_yaml_files", staticmethod(lambda _: iter(paths)))
    ours, expected = configs.packaged(), theirs.build([root])
    configs.packaged.cache_clear()
    assert len(ours) > 400

    def told(index):
        return {n: (e.kind, e.yaml_path, e.tags) for n, e in index.items()}

    assert told(ours) == told(expected)


def test_a_path_is_a_file_a_folder_or_a_task_of_one(folder, monkeypatch):
    write(folder, "a", CHOICE)
    write(folder, "b", WRITE)
    (folder / "_template.yaml").write_text("doc_to_text: x\n")
    found = [one(f"lm-eval:{folder}/{name}") for name in ("a", "a.yaml")]
    assert found[0].items == found[1].items
    assert found[0].scoring == found[1].scoring
    names = [task.name for task in bs.tasks(f"lm-eval:{folder}/,lm-eval:{folder}/b")]
    assert names == [f"lm-eval:{folder}/a", f"lm-eval:{folder}/b"]
    monkeypatch.chdir(folder)
    assert one("lm-eval:./a").items == found[0].items
    assert next(t.name for t in bs.tasks("lm-eval:.//@shots=1")) == "lm-eval:./a@shots=1"


def test_a_path_that_defines_nothing_is_refused(folder):
    refuses("no YAML file at '.*' defines a task; allowed: a YAML file", f"lm-eval:{folder}/x.yaml")
    refuses("no YAML file at", f"lm-eval:{folder}/")
    write(folder, "a", CHOICE)
    refuses("FOLDER/TASK: one of a;", f"lm-eval:{folder}/b")


# --- malformed files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("task: [a\nb: c\n", r"line 2"),
        ("- a list\n", "Expected YAML dict"),
        ("task: toy\ninclude: nowhere.yaml\n", r"nowhere\.yaml"),
        ("task: 7\n", "its name is 7, not a text"),
        ("task: toy\ninclude: toy.yaml\n", "Include cycle"),
    ],
)
def test_a_malformed_file_is_named_with_the_reason(folder, text, reason):
    (folder / "toy.yaml").write_text(text)
    for word in (f"lm-eval:{folder}/toy.yaml", f"lm-eval:{folder}/"):
        refuses(rf"toy\.yaml: .*{reason}.*; try: mend the file", word)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"doc_to_txt": "x"}, "unexpected keyword argument 'doc_to_txt'"),
        ({"test_split": "nix"}, "KeyError: 'nix'"),
        ({"doc_to_text": "{{nix}}"}, "'nix' is undefined"),
        ({"doc_to_text": "{{q"}, "TemplateSyntaxError"),
        ({"output_type": "guess"}, "output_type 'guess'; allowed: multiple_choice"),
        ({"num_fewshot": 99}, "Sample larger than population"),
        ({"metric_list": "acc"}, "TypeError: "),
        ({"metric_list": [{"aggregation": "mean"}]}, "KeyError: 'metric'"),
        (WRITE | {"output_type": "generate_until", "generation_kwargs": {"until": 7}}, "TypeError"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "nix"}]}]}, "nix"),
    ],
)
def test_settings_that_cannot_be_built_are_named_with_the_reason(folder, settings, reason):
    write(folder, "toy", CHOICE | settings)
    refuses(rf"toy\.yaml: .*{re.escape(reason)}", f"lm-eval:{folder}/toy")


def test_two_files_of_one_name_are_refused(folder):
    text = write(folder, "a", CHOICE).read_text()
    (folder / "b.yaml").write_text(text)
    refuses(r"b\.yaml: it defines 'a', as does .*a\.yaml", f"lm-eval:{folder}/a")


# --- data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ConnectionError("Couldn't reach\nit"), ValueError("gated")])
def test_a_hub_out_of_reach_names_the_id_and_the_way_out(monkeypatch, error):
    import datasets

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    said = refuses(r"lm-eval:gsm8k could not be loaded \(openai/gsm8k\)", "lm-eval:gsm8k")
    assert ("no network: Couldn't reach it" in said) == isinstance(error, ConnectionError)
    assert "dataset_path: json" in said


def test_a_missing_data_file_is_named(folder):
    write(folder, "toy", CHOICE, rows="nix.jsonl")
    refuses(r"could not be loaded \(json\): .*nix\.jsonl", f"lm-eval:{folder}/toy")


def test_code_of_the_hub_is_never_run(folder, monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or 1 / 0)
    write(folder, "toy", CHOICE | {"dataset_kwargs": {"trust_remote_code": True}})
    refuses("could not be loaded", f"lm-eval:{folder}/toy")
    assert all("trust_remote_code" not in options for _, options in asked)


# --- what would run code -----------------------------------------------------------------------

CODE = "def ask(doc):\n    return 'From code: ' + doc['q']\n"


@pytest.mark.parametrize(
    "line", ["doc_to_text: !function own.ask", "doc_to_text: !<!function> own.ask",
             "doc_to_text: !function os.system", "fewshot_config: {samples: !function own.ask}"],
)  # fmt: skip
@pytest.mark.parametrize("included", [False, True])
def test_functions_of_a_folder_are_refused(folder, line, included):
    (folder / "own.py").write_text("raise SystemExit('it was run')\n")
    text = write(folder, "toy", CHOICE).read_text()
    rest = "".join(f"{k}: {json.dumps(v)}\n" for k, v in json.loads(text).items() if k not in line)
    if included:
        (folder / "_template").write_text(f"{line}\n")
        line = "include: [_template]"
    (folder / "toy.yaml").write_text(f"{line}\n{rest}")
    said = refuses(r"toy\.yaml: !function \S+ would run Python code", f"lm-eval:{folder}/toy")
    assert "--allow-code-execution" in said


def test_functions_of_a_folder_are_run_where_that_is_allowed(folder):
    (folder / "own.py").write_text(CODE)
    text = write(folder, "toy", CHOICE | {"doc_to_text": "F"}).read_text()
    (folder / "toy.yaml").write_text(text.replace('"F"', "!function own.ask"))
    task = one(f"lm-eval:{folder}/toy", allow_code_execution=True)
    (request,) = task.items[2].requests
    assert request.prefix + request.context == "From code: Which is 2?"
    words = recipe(task)
    assert words["allow_code_execution"] is True
    assert items_hash(from_recipe(words)) == items_hash(task)


def test_templates_cannot_reach_the_interpreter(folder):
    hostile = "{{ q.__class__.__mro__[1].__subclasses__() }}"
    write(folder, "toy", CHOICE | {"doc_to_text": hostile})
    refuses("SecurityError: access to attribute '__class__'", f"lm-eval:{folder}/toy")


def test_tasks_that_run_what_a_model_writes_are_refused(folder):
    refuses("runs the code that a model writes.*try: the task humaneval", "lm-eval:humaneval")
    write(folder, "toy", WRITE | {"unsafe_code": True})
    refuses("'toy' runs the code", f"lm-eval:{folder}/toy", allow_code_execution=True)


def test_data_in_a_pickle_are_refused(folder):
    write(folder, "toy", WRITE | {"dataset_path": "pandas"})
    refuses("pandas reads a pickle.*try: dataset_path: json", f"lm-eval:{folder}/toy")


def test_pictures_are_refused(folder):
    write(folder, "toy", WRITE | {"doc_to_image": "q"})
    refuses("shows pictures or sounds", f"lm-eval:{folder}/toy")


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    def missing(name):
        if name.startswith("lm_eval"):
            raise ModuleNotFoundError("No module named 'lm_eval'", name="lm_eval")
        return importlib.import_module(name)

    library.library.cache_clear()
    monkeypatch.setattr(library, "import_module", missing)
    try:
        refuses(r"No module named 'lm_eval'.*pip install 'basinscope\[lm-eval\]'", "lm-eval:gsm8k")
    finally:
        library.library.cache_clear()


# --- metrics and filters -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("lambada_openai@perplexity", "'perplexity': its score is perplexity over the whole set"),
        ("lambada_openai@perplexity", "allowed: .*each document: acc; try: @acc$"),
        ("wikitext", "'word_perplexity': its score is weighted_perplexity over the whole set"),
        ("wikitext", "each document: none of this task's; try: another task$"),
        ("cola", "'mcc': its score is matthews_corrcoef over the whole set"),
        ("gsm8k@acc", "no metric 'acc'; allowed: exact_match"),
        ("mmlu@acc_norm", "has no metric 'acc_norm'; allowed: acc"),
    ],
)
def test_metrics_that_are_not_0_1_are_refused_before_data_are_loaded(word, reason):
    refuses(reason, f"lm-eval:{word}")


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ({"metric": "f1", "aggregation": "f1"}, "its score is f1 over the whole set"),
        ({"metric": "f1", "aggregation": "mean"}, "with multiple_choice it is not 0 or 1"),
        ({"metric": "likelihood"}, "with multiple_choice it is not 0 or 1"),
        ({"metric": "acc", "higher_is_better": False}, "lower is better"),
        ({"metric": "rouge", "aggregation": "mean"}, "fetched from the hub and run"),
        (
            {"metric": "accuracy", "hf_evaluate": True, "aggregation": "mean"},
            "fetched from the hub and run",
        ),
    ],
)
def test_a_metric_is_refused_with_the_reason(folder, metric, reason):
    listed = [metric, METRIC | {"metric": "acc_norm"}]
    write(folder, "toy", CHOICE | {"metric_list": listed})
    refuses(
        f"{reason}.*allowed: .*: acc_norm; try: @acc_norm$",
        f"lm-eval:{folder}/toy@{metric['metric']}",
    )
    assert "acc_norm,none" in one(f"lm-eval:{folder}/toy").scoring


HALVES = """
def graded(doc, results):
    words = doc["text"].split()
    return {"overlap": len(set(words) & set(results[0].split())) / len(words), "acc": len(results)}
def broken(doc, results):
    return {"acc": doc["no such key"]}
def fragile(doc, results):
    return {"acc": int(results[0][0] == "i")}
"""


@pytest.mark.parametrize(
    ("function", "metric", "reason"),
    [
        ("graded", "overlap", r"metric 'overlap' is 0\.\d+ for document 0"),
        ("graded", "nix", "process_results gives overlap, acc, no nix"),
        ("broken", "acc", "'acc' cannot be computed .KeyError: 'no such key'"),
    ],
)
def test_a_metric_of_its_own_is_tried_on_made_up_answers(folder, function, metric, reason):
    (folder / "own.py").write_text(HALVES)
    text = write(folder, "toy", WRITE | {"metric_list": [METRIC | {"metric": metric}]}).read_text()
    text = text[:-1] + f', "process_results": !function own.{function}' + "}"
    (folder / "toy.yaml").write_text(text)
    refuses(reason, f"lm-eval:{folder}/toy", allow_code_execution=True)


def test_a_document_on_which_the_metric_fails_is_wrong_and_says_so(folder):
    (folder / "own.py").write_text(HALVES)
    text = write(folder, "toy", WRITE | {"metric_list": [METRIC]}).read_text()
    (folder / "toy.yaml").write_text(text[:-1] + ', "process_results": !function own.fragile}')
    task = one(f"lm-eval:{folder}/toy", allow_code_execution=True)
    said = [task.oracle(task.items[0], [Generation(text, True)]) for text in ("it", "no", "")]
    assert [o.correct for o in said] == [True, False, False]
    assert [o.label for o in said] == ["it", "no", "acc: IndexError"]


def test_a_filter_is_chosen_by_name(folder):
    filters = [
        {"name": name, "filter": [
            {"function": "regex", "regex_pattern": "[0-9]", "group_select": nth},
            {"function": "take_first"},
        ]} for name, nth in (("first", 0), ("last", -1))
    ]  # fmt: skip
    settings = WRITE | {"doc_to_target": "{{text[-1]}}", "filter_list": filters}
    for rest, expected in (("", "4"), ("@filter=first", "4"), ("@filter=last", "1")):
        task = made(folder, settings, rest)
        said = task.oracle(task.items[1], [Generation("4 or 1", finished=True)])
        assert said == Outcome(expected == "1", expected)
    refuses("has no filter 'nix'; allowed: first, last", f"lm-eval:{folder}/toy@filter=nix")


# --- items -------------------------------------------------------------------------------------


def test_items_prompts_and_chance(folder):
    task = made(folder, CHOICE | {"description": "Numbers. "})
    assert [item.id for item in task.items] == ["0", "1", "2", "3", "4", "5"]
    request = Choices("2?", (" one", " three", " five"), "Numbers. Which is ")
    assert task.items[2] == Item("2", (request,), "2")
    assert task.chance == pytest.approx(1 / 3)
    assert task.scoring.startswith("lm-eval 0.4.")
    assert " acc,none " in task.scoring


def test_what_is_asked_for_stands_in_the_hash(folder):
    hashes = {items_hash(made(folder, CHOICE, rest)) for rest in ("", "@acc_norm", "@shots=1")}
    hashes.add(items_hash(made(folder, CHOICE | {"doc_to_target": "{{0}}"})))
    rows = [row | {"unseen": 1} for row in ROWS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    hashes.add(items_hash(made(folder, CHOICE)))
    assert len(hashes) == 5


def test_the_folder_does_not_stand_in_the_scoring(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "rows.jsonl").write_text((folder / "rows.jsonl").read_text())
    first, second = made(folder, CHOICE), made(other, CHOICE)
    assert (first.scoring, first.items) == (second.scoring, second.items)


@pytest.mark.parametrize(
    ("given", "tokens", "stop"),
    [
        ({}, 256, ("\n\n",)),
        ({"until": "."}, 256, (".",)),
        ({"until": [".", ""], "max_gen_toks": 7, "temperature": 0.0}, 7, (".",)),
        ({"until": ["\n"], "max_new_tokens": 8, "do_sample": False, "temperature": 1}, 8, ("\n",)),
    ],
)
def test_settings_of_generation(folder, given, tokens, stop):
    task = made(folder, WRITE | {"generation_kwargs": given})
    assert task.items[0].requests == (Generate("Which is 0?", tokens, stop),)
    assert task.chance == 0.0


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"do_sample": True, "temperature": 0.8}, "samples its texts .do_sample=True"),
        ({"temperature": 0.8}, "samples its texts"),
        ({"num_beams": 4}, "generation_kwargs num_beams"),
        ({"repetition_penalty": 1.1, "do_sample": False}, "generation_kwargs repetition_penalty"),
    ],
)
def test_sampled_texts_are_refused(folder, given, reason):
    write(folder, "toy", WRITE | {"generation_kwargs": {"until": ["."], **given}})
    refuses(reason, f"lm-eval:{folder}/toy")


def test_worked_examples_are_as_many_as_asked_for(folder):
    assert made(folder, CHOICE).items[0].requests[0].prefix == "Which is "
    text = made(folder, CHOICE, "@shots=2").items[0].requests[0]
    assert (text.prefix + text.context).count("Which is") == 3
    write(folder, "fixed", CHOICE | {"num_fewshot": 0})
    refuses("with 2 worked examples; allowed: none", f"lm-eval:{folder}/fixed@shots=2")


def test_a_group_is_one_task_with_strata(folder):
    for name in ("north", "south"):
        write(folder, name, CHOICE)
    (folder / "all.yaml").write_text(json.dumps({"group": "both", "task": ["north", "south"]}))
    for word in ("both", "all.yaml"):
        task = one(f"lm-eval:{folder}/{word}", limit=4)
        assert (
            sorted(item.id.partition("/")[0] for item in task.items)
            == ["north"] * 2 + ["south"] * 2
        )
        assert items_hash(from_recipe(recipe(task))) == items_hash(task)
    assert [t.name for t in bs.tasks(f"lm-eval:{folder}/")] == [f"lm-eval:{folder}/both"]
    assert task.oracle(task.items[-1], [Ranking((0.0, -1.0, -2.0))]).label == "0"


@pytest.mark.parametrize(
    ("held", "reason"),
    [("nix", "group 'both' holds no known task 'nix'"), ("both", "group 'both' holds itself")],
)
def test_a_group_of_no_sense_is_refused(folder, held, reason):
    (folder / "all.yaml").write_text(json.dumps({"group": "both", "task": [held]}))
    refuses(rf"all\.yaml: the {reason}", f"lm-eval:{folder}/both")


def test_an_empty_choice_is_never_the_likeliest_a_letter(folder):
    choices = "{{[q[:(a + 2) % 3], 'one']}}"  # of the second document the first is empty
    settings = CHOICE | {"doc_to_choice": choices, "doc_to_target": "{{1}}"}
    task = made(folder, settings, "@acc_norm")
    assert task.items[1].requests[0].continuations == (" ", " one")
    said = task.oracle(task.items[1], [Ranking((-1.0, -9.0))])
    assert (said.correct, said.label) == (True, "1")


CLASS = """
from lm_eval.api.task import ConfigurableTask
class Own(ConfigurableTask):
    VERSION, DATASET_PATH = 1, "json"
    def __init__(self, config=None):
        files = {"test": FILE}
        super().__init__(config={
            "task": "toy", "test_split": "test", "doc_to_text": "{{q}}",
            "doc_to_target": "{{text}}", "dataset_path": "json",
            "dataset_kwargs": {"data_files": files}, "metadata": {},
        })
    def process_results(self, doc, results):
        return {"said": float(doc["text"] in results[0]), "wrong": 1.0, "length": len(results[0])}
    def aggregation(self):
        from lm_eval.api.metrics import mean, median
        return {"length": median, "wrong": mean, "said": mean}
    def higher_is_better(self):
        return {"length": True, "wrong": False, "said": True}
"""


def test_a_task_that_is_a_class_says_what_it_measures(folder):
    code = CLASS.replace("FILE", repr(str(folder / "rows.jsonl")))
    (folder / "own.py").write_text(code)
    (folder / "toy.yaml").write_text("task: toy\nclass: !function own.Own\n")
    refuses("toy.yaml: !function own.Own", f"lm-eval:{folder}/toy")
    task = one(f"lm-eval:{folder}/toy", allow_code_execution=True)
    assert " said,none " in task.scoring
    said = [task.oracle(task.items[3], [Generation(t, True)]).correct for t in ("it is 3.", "3")]
    assert said == [True, False]
    for metric, reason in (("length", "no mean over documents"), ("wrong", "lower is better")):
        word = f"lm-eval:{folder}/toy@{metric}"
        refuses(f"{reason}; allowed: .*: said; try: @said$", word, allow_code_execution=True)


def test_tasks_of_a_group_share_metric_and_filter(folder):
    write(folder, "north", CHOICE)
    write(folder, "south", WRITE)
    (folder / "all.yaml").write_text(json.dumps({"group": "both", "task": ["north", "south"]}))
    refuses("are scored differently", f"lm-eval:{folder}/both")


# --- chats -------------------------------------------------------------------------------------


def test_a_chat_has_turns_and_the_users_message(folder):
    settings = CHOICE | {"description": "Numbers."}
    (request,) = made(folder, settings, "@shots=1@chat@system=Be brief.").items[2].requests
    system, question, answer = request.turns
    assert system == ("system", "Be brief.\n\nNumbers.")
    assert (question[0], question[1][:8], answer[0]) == ("user", "Which is", "assistant")
    asked = Choices("2?", ("one", "three", "five"), "Which is ", "like lm-eval", request.turns)
    assert request == asked
    (request,) = made(folder, settings, "@shots=1@chat@multiturn=false").items[2].requests
    assert request.turns == (("system", "Numbers."),)
    text = request.prefix + request.context
    assert text.startswith("Which is")
    assert text.endswith("\n\nWhich is 2?")
    (request,) = made(folder, WRITE | {"gen_prefix": "So"}, "@chat").items[2].requests
    assert (request.prompt, request.turns) == ("Which is 2?", (("opening", "So"),))


def test_each_way_to_chat_is_a_task_of_its_own(folder):
    ways = ("", "@chat", "@chat@multiturn=false", "@chat@system=A", "@chat@system=B", "@system=A")
    tasks = [made(folder, CHOICE, f"@shots=1{way}") for way in ways]
    assert len({items_hash(task) for task in tasks}) == len(ways)
    assert len({str(task.items) for task in tasks}) == len(ways)
    for task in tasks:
        assert items_hash(from_recipe(recipe(task))) == items_hash(task)
    (name,) = (t.name for t in bs.tasks(f"lm-eval:{folder}/@shots=1@chat@multiturn=false@system=A"))
    assert name == f"lm-eval:{folder}/toy@shots=1@chat@multiturn=false@system=A"


@pytest.mark.parametrize(
    "code",
    ["f'{super().fewshot_context(*rest, **options)}!'",
     "options['chat_template']([{'role': 'assistant', 'content': 'x'}])"],
    ids=["text behind a chat", "no user"],
)  # fmt: skip
def test_a_task_whose_code_writes_past_the_template_is_refused(folder, code):
    own = f"    def fewshot_context(self, *rest, **options):\n        return {code}\n"
    (folder / "own.py").write_text(CLASS.replace("FILE", repr(str(folder / "rows.jsonl"))) + own)
    (folder / "toy.yaml").write_text("task: toy\nclass: !function own.Own\n")
    reason = "'toy' writes its prompts by code of its own, without the chat template; allowed: "
    refuses(reason, f"lm-eval:{folder}/toy@chat", allow_code_execution=True)


def test_a_task_whose_code_leaves_out_the_system_message_is_refused(folder):
    own = "    def fewshot_context(self, *rest, **options):\n        return 'x'\n"
    (folder / "own.py").write_text(CLASS.replace("FILE", repr(str(folder / "rows.jsonl"))) + own)
    (folder / "toy.yaml").write_text("task: toy\nclass: !function own.Own\n")
    assert one(f"lm-eval:{folder}/toy", allow_code_execution=True).items[0].requests[0].prompt
    refuses("system message", f"lm-eval:{folder}/toy@system=A", allow_code_execution=True)


def test_a_template_that_cannot_is_the_users_error(folder, language_model, tokenizer):
    task = made(folder, CHOICE, "@chat@system=A")
    tokenizer.chat_template = "{% if messages[0]['role'] == 'system' %}{{ 1 / 0 }}{% endif %}x"
    engine = bs.load(language_model, tokenizer=tokenizer)
    with pytest.raises(bs.BasinscopeError, match=r"refuses a chat of system, user .*; allowed: "):
        score(engine, task)
    tokenizer.chat_template = None
    with pytest.raises(bs.BasinscopeError, match=r"has no chat template, .*; try: .*@chat"):
        score(engine, made(folder, CHOICE, "@chat"))
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(bs.BasinscopeError, match="refuses a chat of user, assistant"):
        score(engine, made(folder, WRITE | {"gen_prefix": "So"}, "@chat"))


# --- oracle ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "outcome"),
    [
        # three letters, five, four: the totals prefer the first, nats a letter the second
        ("@acc", Outcome(False, "0", -1.0, 4.0)),
        ("@acc_norm", Outcome(True, "1", 3.0 / 3 - 4.0 / 5, 4.0)),
    ],
)
def test_margin_and_nll_of_a_choice(folder, rest, outcome):
    task = made(folder, CHOICE, rest)
    said = task.oracle(task.items[1], [Ranking((-3.0, -4.0, -8.0))])
    assert (said.correct, said.label) == (outcome.correct, outcome.label)
    assert said.margin == pytest.approx(outcome.margin)
    assert said.nll == outcome.nll


def test_of_equal_choices_the_first_is_taken(folder):
    task = made(folder, CHOICE)
    said = [task.oracle(item, [Ranking((-1.0, -1.0, -2.0))]) for item in task.items[:2]]
    assert [(o.correct, o.label, o.margin) for o in said] == [(True, "0", 0.0), (False, "0", 0.0)]


def test_a_last_word_is_right_where_it_is_greedy(folder):
    settings = {"output_type": "loglikelihood", "doc_to_text": "{{q}}", "doc_to_target": " text"}
    task = made(folder, settings | {"metric_list": [METRIC]})
    for greedy in (True, False):
        said = task.oracle(task.items[0], [Ranking((-2.5,), greedy=(greedy,))])
        assert said == Outcome(greedy, "greedy" if greedy else "not greedy", nll=2.5)
    with pytest.raises(TypeError, match="'0': the engine does not say what is greedy"):
        task.oracle(task.items[0], [Ranking((-2.5,))])


def test_an_answer_of_the_other_kind_is_refused(folder):
    task = made(folder, CHOICE)
    with pytest.raises(TypeError, match="item '0' asks for a Ranking, got Generation"):
        task.oracle(task.items[0], [Generation("one", finished=True)])


def test_a_prompt_that_does_not_fit_is_wrong_and_says_so(folder, language_model, tokenizer):
    task = made(folder, CHOICE | {"description": "long " * 60})
    outcomes = score(bs.load(language_model, tokenizer=tokenizer), task)
    assert {(o.correct, o.label.partition(" tokens ")[2]) for o in outcomes} == {
        (False, "does not fit the context of 256")
    }


# --- traces ------------------------------------------------------------------------------------


def test_generators_streams_and_loggers_are_left_as_they_were(folder, capfd):
    import torch

    logger = logging.getLogger("lm_eval")
    before = (random.getstate(), np.random.get_state()[1].tolist(), logger.level)  # noqa: NPY002
    bits = torch.get_rng_state()
    task = made(folder, CHOICE, "@shots=2")  # warns, logs and draws a bar
    task.oracle(task.items[0], [Ranking((0.0, -1.0, -2.0))])
    with pytest.raises(bs.BasinscopeError, match="no metric"):
        made(folder, CHOICE, "@nix")
    after = (random.getstate(), np.random.get_state()[1].tolist(), logger.level)  # noqa: NPY002
    assert before == after
    assert torch.equal(bits, torch.get_rng_state())
    assert capfd.readouterr() == ("", "")


def test_lm_eval_finds_the_generators_as_its_command_line_seeds_them():
    with undisturbed():
        found = random.random(), float(np.random.rand())  # noqa: NPY002
    assert found == (random.Random(0).random(), float(np.random.RandomState(1234).rand()))
