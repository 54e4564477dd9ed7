"""Five exactly checkable tasks with answers of several lines: what the model is trained and strategies judged on.

Pure standard library, so that listing them costs no torch. They know no model and no tokenizer: text in, text out.
"""

from dllm_reference_model.tasks.base import SPLITS, Score, Task, split_of
from dllm_reference_model.tasks.expressions import Expr
from dllm_reference_model.tasks.records import Record
from dllm_reference_model.tasks.sorting import Sort
from dllm_reference_model.tasks.stories import Story
from dllm_reference_model.tasks.traces import Trace

expr = Expr()
record = Record()
sort = Sort()
story = Story()
trace = Trace()
ALL: tuple[Task, ...] = (expr, record, sort, story, trace)

__all__ = [
    "ALL",
    "SPLITS",
    "Expr",
    "Record",
    "Score",
    "Sort",
    "Story",
    "Task",
    "Trace",
    "expr",
    "record",
    "sort",
    "split_of",
    "story",
    "trace",
]
