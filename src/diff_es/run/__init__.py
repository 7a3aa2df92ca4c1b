"""The main job: a recipe from start to end."""

from diff_es.run.estimate import Estimate as Estimate
from diff_es.run.estimate import estimate as estimate
from diff_es.run.inspect import Inspection as Inspection
from diff_es.run.inspect import inspect_denoiser as inspect_denoiser
from diff_es.run.inspect import inspect_model as inspect_model
from diff_es.run.main import RunResult as RunResult
from diff_es.run.main import compress as compress
from diff_es.run.session import Session as Session
from diff_es.run.use import generate_images as generate_images
