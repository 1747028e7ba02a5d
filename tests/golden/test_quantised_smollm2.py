"""Given directions on the real model: where its compressed copies sit, and its own weights back."""

import pytest
import torch

import basinscope as bs


@pytest.mark.model
def test_smollm2_in_fewer_bits_sits_further_out_and_comes_back(smollm2, tmp_path):
    before = smollm2.fingerprint()
    eight, four = bs.Quantised(8), bs.Quantised(4, 128)
    assert eight.sits_at(smollm2) == pytest.approx(0.00146, abs=1e-5)
    assert four.sits_at(smollm2) == pytest.approx(0.02122, abs=1e-5)
    name = "model.layers.0.mlp.down_proj.weight"
    theta = smollm2.pristine(name).float().reshape(-1, 128)
    scale = theta.abs().amax(1, keepdim=True) / 7
    rounded = ((theta / scale).round() * scale).reshape(576, 1536)
    with smollm2.at(four, step=four.sits_at(smollm2)):
        live = smollm2.module.get_parameter(name).detach()
        assert torch.allclose(live.float(), rounded, rtol=2.0**-8, atol=1e-5)
        table = smollm2.module.get_input_embeddings().weight
        assert torch.equal(table, smollm2.pristine("model.embed_tokens.weight"))
    assert smollm2.fingerprint() == before


@pytest.mark.model
def test_smollm2_has_the_weights_that_it_is_loaded_from(smollm2):
    with pytest.raises(bs.BasinscopeError, match="to:smollm2 has the same weights as the model"):
        bs.Toward("smollm2").fit(smollm2)
