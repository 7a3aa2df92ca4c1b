"""SCORE a schedule against fixed probes."""

from diff_es.fitness.batching import BatchChoice as BatchChoice
from diff_es.fitness.batching import choose_batch_size as choose_batch_size
from diff_es.fitness.result import Result as Result
from diff_es.fitness.result import run as run
from diff_es.fitness.trajectory import TrajectoryFitness as TrajectoryFitness
