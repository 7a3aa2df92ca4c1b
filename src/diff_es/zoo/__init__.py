"""The small trained models that ship with the project, and how they were trained."""

from diff_es.zoo import captions
from diff_es.zoo.captions import CAPTIONS, calibration_captions, caption_of, label_of
from diff_es.zoo.catalog import load_classifier, load_pipeline, names, path
from diff_es.zoo.classifier import FashionClassifier
from diff_es.zoo.classifier_training import ClassifierRecipe
from diff_es.zoo.data import CLASS_NAMES, calibration_set, reference_set
from diff_es.zoo.dit import DitRecipe
from diff_es.zoo.flux import FluxSize
from diff_es.zoo.flux_training import FluxRecipe, TeacherRecipe
from diff_es.zoo.reflow import PairPlan
from diff_es.zoo.sdxl import SdxlRecipe
from diff_es.zoo.stored import Pipeline
from diff_es.zoo.trainers import train
from diff_es.zoo.training import LoopConfig
from diff_es.zoo.vae import VaeRecipe

__all__ = [
    "CAPTIONS",
    "CLASS_NAMES",
    "ClassifierRecipe",
    "DitRecipe",
    "FashionClassifier",
    "FluxRecipe",
    "FluxSize",
    "LoopConfig",
    "PairPlan",
    "Pipeline",
    "SdxlRecipe",
    "TeacherRecipe",
    "VaeRecipe",
    "calibration_captions",
    "calibration_set",
    "caption_of",
    "captions",
    "label_of",
    "load_classifier",
    "load_pipeline",
    "names",
    "path",
    "reference_set",
    "train",
]
