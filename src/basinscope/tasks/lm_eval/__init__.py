"""Any task of lm-eval as ``lm-eval:NAME``: its documents, prompts, filters and metrics, our engine.

Gao et al., "The Language Model Evaluation Harness" (the package lm-eval, extra ``lm-eval``). A
task is built once, without a model; answers of our engine go through the task's own filters and
``process_results``, so that an item's outcome is lm-eval's metric of that document. Words::

    lm-eval:NAME                        a task, group or tag of lm-eval's
    lm-eval:DIR/FILE.yaml               one of the user's own YAML files
    lm-eval:DIR/NAME                    a task or group that a file of that folder defines
    lm-eval:DIR/                        every task of that folder, each as a task of its own
    ...@METRIC                          default: the first metric that is 0 or 1 for each document
    ...@filter=NAME                     default: the first
    ...@shots=N                         worked examples; default: the task's own, else none
    ...@chat                            in the model's chat template, worked examples as turns
    ...@chat@multiturn=false            the same, with them in the user's message
    ...@system=TEXT                     system's message, with or without @chat; it stands last

A group's items are those of all its tasks, with ids ``task/document``.
"""

from basinscope.tasks.lm_eval.build import load
from basinscope.tasks.lm_eval.configs import PREFIX, expanded
from basinscope.tasks.lm_eval.documents import LmEval

__all__ = ["PREFIX", "LmEval", "expanded", "load"]
