"""Other ways to draw the same landscape, written anew from their description.

Each works on token ids that are made beforehand, so that all read the same prompts and no time goes
into tokenizing, and knows nothing of basinscope:

- ``perturb(step)`` moves the weights by noise of its own and takes them back: what a point costs
  beside its evaluation.
- ``choose(prompts, letters)`` gives the index of the likeliest letter after each prompt.
- ``write(prompts, cap)`` gives each greedy continuation as token ids.
"""
