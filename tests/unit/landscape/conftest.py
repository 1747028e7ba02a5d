"""A model of one layer and tasks that are functions of it."""

from half_spaces import engine, make_layer, make_task, task  # noqa: F401
