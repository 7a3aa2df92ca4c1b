"""MEASURE the routed pipeline: images, label agreement, MACs and latency, each with the protocol it was measured by.

Level, MACs and latency are three different things: a schedule that removes half of the MACs need not be faster.
Nothing here calls a saving a speed-up; `latency` measures it.
"""

from __future__ import annotations

from diff_es.evaluation.classifier import ClassifierScores, ImageClassifier, classifier_scores, extract_features
from diff_es.evaluation.environment import Environment, environment
from diff_es.evaluation.images import generate
from diff_es.evaluation.latency import LatencyRecord, describe_speedup, measure_latency, speedup
from diff_es.evaluation.records import Evaluation, Protocol, Samples, ScheduleEvaluation

__all__ = [
    "ClassifierScores",
    "Environment",
    "Evaluation",
    "ImageClassifier",
    "LatencyRecord",
    "Protocol",
    "Samples",
    "ScheduleEvaluation",
    "classifier_scores",
    "describe_speedup",
    "environment",
    "extract_features",
    "generate",
    "measure_latency",
    "speedup",
]
