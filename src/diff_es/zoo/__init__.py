"""The small trained models that ship with the project, and how they were trained."""

from diff_es.zoo.catalog import load_classifier, load_pipeline, names, path
from diff_es.zoo.classifier import FashionClassifier
from diff_es.zoo.classifier_training import ClassifierRecipe
from diff_es.zoo.data import CLASS_NAMES, calibration_set, reference_set
from diff_es.zoo.dit import DitRecipe
from diff_es.zoo.trainers import train
from diff_es.zoo.training import LoopConfig
from diff_es.zoo.vae import VaeRecipe

__all__ = [
    "CLASS_NAMES",
    "ClassifierRecipe",
    "DitRecipe",
    "FashionClassifier",
    "LoopConfig",
    "VaeRecipe",
    "calibration_set",
    "load_classifier",
    "load_pipeline",
    "names",
    "path",
    "reference_set",
    "train",
]
