"""Replaced tokens: the paper's false form fails on its counterexample, the correct forms hold."""

import json
import math

import pytest
import torch

import basinscope as bs
from basinscope.certify import certify_tokens, untied
from basinscope.certify.embeddings import distances, embedding_noise, near_duplicates
from basinscope.stats import smoothing as formulas
from basinscope.tasks import Generate, Item, Outcome

A, B = 0, 1


class TestCounterexample:
    """W = (0, a), prompt (A, B), score 1{emb_1 < emb_2}; A is replaced by B (method, section 4)."""

    GAP, SIGMA, DRAWS = 3.0, 1.0, 4000

    @pytest.fixture(scope="class")
    @classmethod
    def noise(cls):
        return torch.randn(cls.DRAWS, 2, generator=torch.Generator().manual_seed(0))

    def test_noise_shared_by_the_places_of_a_token_gives_no_bound(self, noise):
        rows = torch.tensor([0.0, self.GAP]) + self.SIGMA * noise  # one draw for each row of W
        p = float((rows[:, A] < rows[:, B]).float().mean())
        after = float((rows[:, B] < rows[:, B]).float().mean())
        assert p > 0.97
        assert after == 0.0, "under every draw"
        # what the paper's form promises for one replaced token of norm ||W_B - W_A||
        promised = float(formulas.lower_bound(0.97, self.GAP, self.SIGMA))
        assert promised > 0.1 > after

    def test_position_wise_noise_keeps_its_promise(self, noise):
        def score(first, second):
            return float((first + noise[:, 0] < second + noise[:, 1]).float().mean())

        p, after = score(0.0, self.GAP), score(self.GAP, self.GAP)
        bound = float(formulas.lower_bound(p - 0.01, self.GAP, self.SIGMA))
        assert after == pytest.approx(0.5, abs=0.04)
        assert bound <= after

    def test_row_wise_form_does_not_list_that_replacement(self, speaker):
        # the new token stands in the prompt already: never covered, whatever the radius
        engine, task = speaker
        found = certify_tokens(
            untied(engine), task, mode="row", sigma=1e-4, draws=60, confidence=0.9
        )
        inside = [
            one
            for one in found.replacements
            if one.reason == "the new token stands in the prompt already"
        ]
        assert inside, "'c' and 'C' stand in the prompts"
        assert not any(one.covered for one in inside)


class TestPositionWise:
    def test_bounds_items_and_lists_what_they_cover(self, speaker, tmp_path):
        engine, task = speaker
        options = {"sigma": 0.02, "draws": 60, "confidence": 0.9, "run": tmp_path / "x"}
        found = certify_tokens(engine, task, **options)
        assert set(found.p_items) == {item.id for item in task.items}
        assert max(found.p_items.values()) > 0.5, "the case says something"
        for one in found.replacements:
            assert one.texts[0].casefold() == one.texts[1].casefold()
            (step,) = distances(engine, one.old, [one.new]).tolist()
            assert one.r == pytest.approx(step * math.sqrt(one.places))
            assert one.covered == (one.r <= one.radius)
        assert "Not covered:" in str(found)
        assert "insertion, deletion" in str(found)
        json.dumps(found.to_json(), allow_nan=False)
        assert bs.load_run(tmp_path / "x") == found
        records = list((tmp_path / "x" / "trials").glob("*.json"))
        assert len(records) == 60
        records[0].unlink()
        assert certify_tokens(engine, task, **options) == found, "resumed"
        with pytest.raises(bs.BasinscopeError, match=r"sigma 0.02 -> 0.03"):
            certify_tokens(engine, task, **{**options, "sigma": 0.03})

    def test_noise_is_one_draw_for_each_place_and_gone_afterwards(self, speaker):
        engine, _ = speaker
        table = engine.module.get_input_embeddings()
        tokens = torch.tensor([[5, 5, 5]])
        plain = table(tokens)
        with embedding_noise(engine, 0.1, "x", seed=0, draw=0):
            first, second = table(tokens), table(tokens)
        moved = (first - plain) / 0.1
        assert not torch.equal(moved[0, 0], moved[0, 1])
        assert not torch.equal(first, second)
        assert torch.equal(table(tokens), plain)
        with embedding_noise(engine, 0.1, "x", seed=0, draw=0):
            assert torch.equal(table(tokens), first), "repeatable"
        flat = moved.flatten().detach()
        expected = bs.normals("x", flat.numel(), seed=0, draw=0)
        assert torch.allclose(flat, expected, atol=1e-4)

    def test_requests_of_an_item_draw_the_same_whatever_fits_a_batch(self, checkpoint, tmp_path):
        class Twice:
            name, chance, scoring = "twice", 0.0, "twice/1"
            items = tuple(
                Item(f"i{n}", tuple(
                    Generate(f"{word} {n}: can ", 6)
                    for word in ("The Cat", "A big old dog sees you", "She says that it is so")
                )) for n in range(3)
            )  # fmt: skip

            def oracle(self, item, answers):
                return Outcome(True, label=" ".join(answer.text for answer in answers))

        records = []
        for budget in (4096, 8):
            engine = bs.load(checkpoint, dtype="float32")
            engine.token_budget = budget
            run = tmp_path / str(budget)
            certify_tokens(engine, Twice(), sigma=0.05, draws=5, confidence=0.9, run=run)
            found = sorted((run / "trials").glob("*.json"))
            records.append([json.loads(file.read_text())["labels"] for file in found])
        assert len(records[0]) == 5
        assert records[0] == records[1]

    def test_a_draw_does_not_depend_on_what_was_answered_before(self, language_model, tokenizer):
        engine = bs.load(language_model, tokenizer=tokenizer)
        request = Generate("say what it is " * 2, 40)

        def under(draw):
            with embedding_noise(engine, 0.05, "x", seed=0, draw=draw):
                return engine.answer([request])

        first = [under(draw) for draw in (0, 1, 2)]
        assert [under(draw) for draw in (2, 1, 0)] == first[::-1]

    def test_a_prompt_that_is_read_more_than_once_is_refused(self, speaker, monkeypatch):
        engine, task = speaker
        monkeypatch.setattr(engine._forward, "cached", False)
        with pytest.raises(
            bs.BasinscopeError, match="does not pass through the model exactly once"
        ):
            certify_tokens(engine, task)


class TestRowWise:
    def test_tied_embeddings_are_refused(self, speaker):
        engine, task = speaker
        with pytest.raises(bs.BasinscopeError, match="ties its embeddings to its output head"):
            certify_tokens(engine, task, mode="row")

    def test_untied_copy_gives_the_same_answers_and_lets_the_head_stay(self, speaker):
        engine, task = speaker
        copied = untied(engine)
        requests = [item.requests[0] for item in task.items]
        assert copied.answer(requests) == engine.answer(requests)
        assert copied.d > engine.d
        head = copied.module.get_output_embeddings().weight.detach().clone()
        table = copied.module.get_input_embeddings().weight
        name = next(n for n, p in copied.module.named_parameters() if p is table)
        noise = bs.geometry(f"params:^{name}$", copied).noise(0)
        with copied.at(noise, step=0.1):
            assert torch.equal(copied.module.get_output_embeddings().weight, head)
            assert not torch.equal(table, head)

    def test_costs_one_row_however_often_the_token_stands(self, speaker):
        engine, task = speaker
        copied = untied(engine)
        found = certify_tokens(copied, task, mode="row", sigma=0.02, draws=60, confidence=0.9)
        twice = [one for one in found.replacements if one.places > 1]
        assert twice
        for one in twice:
            (step,) = distances(copied, one.old, [one.new]).tolist()
            assert one.r == pytest.approx(step)
        blocked = [one for one in found.replacements if "continuation" in one.reason]
        assert not any(one.covered for one in blocked)


class TestNearDuplicates:
    def test_same_letters_but_for_case_and_a_leading_space(self):
        class Words:
            all_special_ids = (0,)

            def get_vocab(self):
                return {
                    "<s>": 0,
                    "cat": 1,
                    "Cat": 2,
                    "Ġcat": 3,
                    "▁CAT": 4,
                    "dog": 5,
                    "!": 6,
                    "Ġ!": 7,
                }

        found = near_duplicates(Words())
        assert found[1] == (2, 3, 4)
        assert found[5] == ()
        assert 6 not in found
        assert 0 not in found

    def test_distances_are_float32_whatever_the_weights(self, checkpoint):
        engine = bs.load(checkpoint)  # bfloat16
        found = distances(engine, 40, [41, 40])
        assert found.dtype == torch.float32
        table = engine.module.get_input_embeddings().weight.detach().float()
        assert float(found[0]) == pytest.approx(float((table[41] - table[40]).norm()))
        assert float(found[1]) == 0.0


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"mode": "suffix"}, "mode='suffix'; allowed"),
            ({"sigma": 0.0}, "sigma=0.0; allowed"),
            ({"confidence": 1.0}, "confidence=1.0; allowed"),
            ({"draws": 3}, "allowed: at least"),
            ({"target": 1.0}, "target=1.0; allowed"),
        ],
        ids=lambda value: value[:9] if isinstance(value, str) else "",
    )
    def test_is_refused(self, speaker, options, words):
        engine, task = speaker
        with pytest.raises(bs.BasinscopeError, match=words):
            certify_tokens(engine, task, **options)

    def test_a_plain_module_has_no_tokens(self, engine, task):
        with pytest.raises(bs.BasinscopeError, match="has no tokens"):
            certify_tokens(engine, task)
