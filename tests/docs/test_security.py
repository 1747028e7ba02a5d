"""What SECURITY.md says of the source is so: read from the source, call by call."""

from __future__ import annotations

import ast

import pytest
from doc_pages import ROOT

SOURCE = ROOT / "src" / "basinscope"
TREES = {
    path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in SOURCE.rglob("*.py")
}
PICKLES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal",
    "multiprocessing",
}  # fmt: skip
NETWORK = {"socket", "ssl", "http", "urllib", "requests", "httpx", "aiohttp", "ftplib", "smtplib"}
REFUSED = {
    "eval", "exec", "execfile", "os.system", "os.popen", "torch.load", "torch.save",
    "pd.read_pickle", "pandas.read_pickle", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all",
    "runpy.run_path",
}  # fmt: skip
MODELS = {"AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"}


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        # urllib.parse only takes addresses apart
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module != "urllib.parse":
            yield (node.module or "").partition(".")[0]


def calls():
    """File, dotted name, and arguments by keyword (None for ``**``) of every call."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                words = {k.arg: ast.unparse(k.value) for k in node.keywords}
                yield file, ast.unparse(node.func), words


def test_no_room_imports_what_pickles():
    assert {file: use for file, tree in TREES.items() if (use := PICKLES & {*imports(tree)})} == {}


def test_only_the_sandbox_has_sockets_and_they_lead_to_its_own_processes():
    users = {file for file, tree in TREES.items() if NETWORK & {*imports(tree)}}
    assert users == {"tasks/sandbox.py"}
    assert {n for f, n, _ in calls() if f in users and n.startswith("socket.")} == {
        "socket.socketpair"
    }


def test_code_is_run_in_the_sandbox_alone():
    assert {(file, name) for file, name, _ in calls() if name in REFUSED} == {
        ("tasks/sandboxed.py", "exec")
    }


def test_no_shell_is_started_and_no_array_unpickled():
    words = [w for _, _, w in calls()]
    assert not [w for w in words if "shell" in w or "allow_pickle" in w]


def test_yaml_is_read_by_safe_loaders():
    loaders = [w.get("Loader") for _, name, w in calls() if name in ("yaml.load", "yaml.compose")]
    assert set(loaders) == {"_Text"}
    bases = [
        ast.unparse(base)
        for node in ast.walk(TREES["tasks/lm_eval/configs.py"])
        if isinstance(node, ast.ClassDef) and node.name == "_Text"
        for base in node.bases
    ]
    assert bases == ["yaml.SafeLoader"]


def test_pages_escape_and_templates_of_others_run_in_a_sandbox():
    made = {
        (f, name, w.get("autoescape")) for f, name, w in calls() if name.endswith("Environment")
    }
    assert made == {
        ("report/page.py", "Environment", "True"),
        ("tasks/lm_eval/library.py", "SandboxedEnvironment", None),
    }


@pytest.mark.parametrize("option", ["trust_remote_code", "use_safetensors"])
def test_every_model_is_loaded_with_a_decision(option):
    """``**source`` and ``**place`` hold the decision on code; a GGUF file has no other weights."""
    loads = [
        (file, name, words)
        for file, name, words in calls()
        if name.partition(".")[0] in MODELS and name.endswith(".from_pretrained")
        if option != "use_safetensors" or name.startswith("AutoModel")
    ]
    assert loads
    undecided = [
        (file, name) for file, name, words in loads if option not in words and None not in words
    ]
    assert undecided == []
    for file, name in (("engines/loading.py", "source"), ("engines/sources.py", "place")):
        (decided,) = (
            ast.unparse(node.value)
            for node in ast.walk(TREES[file])
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
            if isinstance(node.value, ast.Dict)
        )
        assert "'trust_remote_code': " in decided
        assert "'trust_remote_code': True" not in decided
