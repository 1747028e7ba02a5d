"""Likelihood of a text as a task: blocks are items, one token of each gives its 0-1 outcome."""

import json

import pytest

import basinscope as bs
from basinscope.errors import BasinscopeError
from basinscope.tasks import Likelihood, Outcome, Ranking, corpus
from basinscope.tasks.words import from_recipe, recipe

TEXT = "The rain in Spain stays mainly in the plain, said he; and she did not disagree.\n" * 40


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def one(word, **options):
    (task,) = bs.tasks([word], **options)
    return task


def test_blocks_one_after_another_are_the_text(file):
    task = one(f"nll:{file}")
    texts = [item.requests[0].text for item in task.items]
    assert "".join(texts) == TEXT
    assert len(texts) == 6
    assert [item.id for item in task.items] == list("012345")
    assert all(256 < len(text) <= 512 + 256 for text in texts)
    assert all(text[0].isspace() for text in texts[1:])
    assert (task.name, task.chance) == (f"nll:{file}", 0.0)


@pytest.mark.parametrize(
    "text",
    ["x" * 2000, " " * 2000, "\n".join("abc" for _ in range(900)), "é ü " * 700, "日本語" * 400,
     " " * 700 + "word " * 300, "word " * 102 + "x" * 900, "a b", "\ufeffa b\r\nc"],
)  # fmt: skip
def test_blocks_of_any_text_are_that_text(text):
    found = list(corpus.blocks(text))
    assert "".join(found) == text
    assert all(0 < len(block) <= 768 for block in found)


def test_a_comma_in_the_name_of_a_file_is_no_end(tmp_path):
    path = tmp_path / "Emma, vol. 1.txt"
    path.write_text("It was a quiet evening in the village. " * 20)
    assert [task.name for task in bs.tasks(f"nll:{path},basic")] == [f"nll:{path}", "basic"]


def test_line_ends_stay_and_a_byte_order_mark_goes(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    (item,) = one(f"nll:{tmp_path}/a.txt").items
    assert item.requests[0].text == "one\r\ntwo"


def test_the_token_asked_for_lies_in_the_second_half_and_is_the_same_for_the_same_text(file):
    task = one(f"nll:{file}")
    assert [i.answer for i in task.items] == [i.answer for i in one(f"nll:{file}").items]
    seen = set()
    for n in (1, 2, 3, 10, 101):
        for item in task.items:
            only = [
                task.oracle(item, [likelihood(n, hit)]).correct for hit in range(n)
            ]  # one token at a time is hit
            assert sum(only) == 1
            assert only.index(True) >= n // 2
            seen.add((n, only.index(True)))
    assert len({k for n, k in seen if n == 101}) > 3


def likelihood(n, hit):
    hits = tuple(k == hit for k in range(n))
    return Likelihood((-0.5,) * n, hits, tuple(1.5 if h else -2.0 for h in hits))


def test_an_outcome_holds_the_likelihood_of_the_whole_block(file):
    task = one(f"nll:{file}")
    item = task.items[0]
    asked = 5 + item.answer % 5
    hit = task.oracle(item, [likelihood(10, asked)])
    assert hit == Outcome(True, "hit", margin=1.5, nll=5.0, tokens=10)
    miss = task.oracle(item, [likelihood(10, 0)])
    assert miss == Outcome(False, "miss", margin=-2.0, nll=5.0, tokens=10)


def test_limit_takes_blocks_and_a_recipe_builds_them_again(tmp_path):
    path = tmp_path / "with, comma.txt"
    path.write_text(TEXT, encoding="utf-8")
    task = one(f"nll:{path}", limit=3, seed=5)
    assert len(task.items) == 3
    again = from_recipe(json.loads(json.dumps(recipe(task))))
    assert [i.id for i in again.items] == [i.id for i in task.items]
    assert again.items == task.items


def test_workers_give_the_records_of_one_process(file, checkpoint, tmp_path):
    def trials(workers):
        engine = bs.load(checkpoint)
        found = bs.landscape(
            engine, [one(f"nll:{file}", limit=2)], steps=[0.0, 0.05], draws=2, workers=workers
        )
        return found.trials

    assert trials(2) == trials(1)


def test_trials_hold_tokens_and_survive_the_store(file, checkpoint, tmp_path):
    engine = bs.load(checkpoint)
    found = bs.landscape(engine, [one(f"nll:{file}")], steps=[0.0], run=tmp_path / "run")
    (trial,) = found.trials
    lengths = [len(item.requests[0].text) for item in one(f"nll:{file}").items]
    # blocks of more than the context of 256 tokens are read in windows
    assert trial.tokens == tuple(n - 1 for n in lengths)
    assert bs.load_run(tmp_path / "run").trials == found.trials
    assert found.items()["tokens"].tolist() == [n - 1 for n in lengths]


def test_a_known_text_comes_from_the_data_folder(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "wikitext2_test.txt").write_text(TEXT, encoding="utf-8")
    task = one("nll:wikitext2", data_dir=tmp_path)
    assert "".join(i.requests[0].text for i in task.items) == TEXT
    assert recipe(task)["data_dir"] == str(tmp_path)


def test_a_known_text_comes_from_the_hub_without_a_folder(monkeypatch):
    import datasets

    def load_dataset(repo, config, split):
        assert (repo, config, split) == ("Salesforce/wikitext", "wikitext-2-v1", "test")
        return [{"text": ""}, {"text": " = A =\n"}, {"text": " It is . \n"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (item,) = one("nll:wikitext2").items
    assert item.requests[0].text == " = A =\n It is . \n"


class TestBadInput:
    def test_no_file(self, tmp_path):
        with pytest.raises(
            BasinscopeError, match=r"no text '.*gone.txt' \(No such.*wikitext2.*--d"
        ):
            one(f"nll:{tmp_path}/gone.txt")

    def test_a_folder(self, tmp_path):
        with pytest.raises(BasinscopeError, match=r"no text .*\(it is a folder\)"):
            one(f"nll:{tmp_path}")

    def test_no_word(self):
        with pytest.raises(BasinscopeError, match=r"no text .*allowed: nll: and the path"):
            one("nll:")

    def test_a_known_text_that_the_folder_lacks(self, tmp_path):
        with pytest.raises(BasinscopeError, match=r"no text '.*wikitext2_test.txt'"):
            one("nll:wikitext2", data_dir=tmp_path)

    @pytest.mark.parametrize("text", ["", "\n \t\n", "word", "  word\n"])
    def test_no_text_in_it(self, tmp_path, text):
        (tmp_path / "a.txt").write_text(text)
        with pytest.raises(BasinscopeError, match=r"a.txt holds no text; .*at least two words"):
            one(f"nll:{tmp_path}/a.txt")

    def test_not_utf8(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"good \xff bad")
        with pytest.raises(BasinscopeError, match=r"a.txt: byte 5 \(0xff\) is not UTF-8; .*save"):
            one(f"nll:{tmp_path}/a.txt")

    def test_another_kind_of_answer(self, file):
        task = one(f"nll:{file}")
        with pytest.raises(TypeError, match="asks for a Likelihood, got Ranking"):
            task.oracle(task.items[0], [Ranking((0.0,))])

    def test_an_unknown_task_names_the_word(self):
        with pytest.raises(BasinscopeError, match=r"task 'nil:x'; .*nll:FILE"):
            one("nil:x")


def test_published_text(real_data):
    task = one("nll:wikitext2", data_dir=real_data)
    text = (real_data / "text" / "wikitext2_test.txt").read_text(encoding="utf-8")
    assert "".join(i.requests[0].text for i in task.items) == text
    assert len(task.items) == 2464
