"""SHARE work out: the same tasks in this process, or on workers of their own (Ray actors) on one or many machines.

Knows nothing of diffusion: a *worker* is any object that is made once and kept, a *task* is a function of it. Results
come in the order in which they are finished; what they are depends on the task alone.
"""

from diff_es.execution.base import Done as Done
from diff_es.execution.base import ExecutionError as ExecutionError
from diff_es.execution.base import Executor as Executor
from diff_es.execution.base import Failed as Failed
from diff_es.execution.base import Task as Task
from diff_es.execution.ledger import Patience as Patience
from diff_es.execution.local import LocalExecutor as LocalExecutor
from diff_es.execution.ray_workers import RayWorkers as RayWorkers
from diff_es.execution.ray_workers import asked_for as asked_for
