"""A model of one layer and tasks that are functions of it; a tiny language model with a task."""

from half_spaces import engine, make_layer, make_task, speaker, task  # noqa: F401
