"""SCORE a schedule against fixed probes."""

from diff_es.fitness.batching import BatchChoice as BatchChoice
from diff_es.fitness.batching import choose_batch_size as choose_batch_size
from diff_es.fitness.memory import bytes_beside_dense as bytes_beside_dense
from diff_es.fitness.memory import kept_bytes as kept_bytes
from diff_es.fitness.memory import plan_search as plan_search
from diff_es.fitness.result import Result as Result
from diff_es.fitness.result import check_decoder as check_decoder
from diff_es.fitness.result import run as run
from diff_es.fitness.trajectory import TrajectoryFitness as TrajectoryFitness
