"""MEASURE the routed pipeline: images, quality, MACs, latency and memory, each with the protocol it was measured by.

Level, MACs and latency are three different things: a schedule that removes half of the MACs need not be faster.
Nothing here calls a saving a speed-up; `latency` measures it.
"""

from __future__ import annotations

from diff_es.evaluation.bootstrap import interval, over_seeds
from diff_es.evaluation.classifier import ImageClassifier, classifier_judge, look_at
from diff_es.evaluation.cost import DENSE, Cost, measure_costs
from diff_es.evaluation.environment import Environment, environment
from diff_es.evaluation.images import generate
from diff_es.evaluation.judge import Judge, Judged
from diff_es.evaluation.latency import (
    Contender,
    LatencyEntry,
    LatencyRecord,
    Scope,
    describe_speedup,
    measure_batch_sizes,
    measure_latency,
    routing_contender,
    speedup,
)
from diff_es.evaluation.memory import MemoryRecord, compare_memory
from diff_es.evaluation.quality import ImageScores, Quality, agreement, assess, fidelity, measurements
from diff_es.evaluation.records import Evaluation, Measurement, Protocol, Samples, ScheduleEvaluation
from diff_es.evaluation.store import CHUNK, StoredSamples, make_chunk, missing_chunks, stored

__all__ = [
    "CHUNK",
    "DENSE",
    "Contender",
    "Cost",
    "Environment",
    "Evaluation",
    "ImageClassifier",
    "ImageScores",
    "Judge",
    "Judged",
    "LatencyEntry",
    "LatencyRecord",
    "Measurement",
    "MemoryRecord",
    "Protocol",
    "Quality",
    "Samples",
    "ScheduleEvaluation",
    "Scope",
    "StoredSamples",
    "agreement",
    "assess",
    "classifier_judge",
    "compare_memory",
    "describe_speedup",
    "environment",
    "fidelity",
    "generate",
    "interval",
    "look_at",
    "make_chunk",
    "measure_batch_sizes",
    "measure_costs",
    "measure_latency",
    "measurements",
    "missing_chunks",
    "over_seeds",
    "routing_contender",
    "speedup",
    "stored",
]
