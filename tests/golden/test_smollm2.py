"""The real model: its size and scale, the scores the suite is pitched for, and its basin."""

import pytest

import basinscope as bs


@pytest.mark.model
@pytest.mark.timeout(1200)
def test_smollm2_is_the_model_that_the_suite_is_pitched_for(smollm2):
    assert smollm2.d == 134_515_008, "tied embeddings once"
    assert smollm2.rms == pytest.approx(0.18, abs=0.01)
    assert smollm2.forward.cached, "it is served by a quick way, whichever this processor takes"
    before = smollm2.fingerprint()
    tasks = bs.tasks("basic,math,code")
    land = bs.landscape(smollm2, tasks, steps=[0.0, 0.005, 0.04], draws=1)
    score = land.to_pandas().set_index(["task", "step"])["score"]
    for task in ("basic", "math", "code"):
        assert score[task, 0.0] >= land.task(task).chance + 0.25
        assert score[task, 0.04] <= land.task(task).chance + 0.2, "collapsed"
    assert abs(score["basic", 0.005] - score["basic", 0.0]) <= 0.1, "flat near zero"
    assert smollm2.fingerprint() == before
