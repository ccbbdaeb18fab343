"""Tasks: data, prompt, options or reference answers, and a metric. One file per published task."""

from zoplat.tasks.task import Classification, Generation, Hub, MultipleChoice, Task

__all__ = ["Classification", "Generation", "Hub", "MultipleChoice", "Task"]
