"""RUN the dense model on stage-matched inputs, KEEP statistics."""

from diff_es.calibration.captioned import read_captioned_folder as read_captioned_folder
from diff_es.calibration.collect import CalibrationConfig as CalibrationConfig
from diff_es.calibration.collect import calibrate as calibrate
from diff_es.calibration.data import read_captioned_npz as read_captioned_npz
from diff_es.calibration.data import read_folder as read_folder
from diff_es.calibration.data import read_npz as read_npz
from diff_es.calibration.hub import read_hub as read_hub
from diff_es.calibration.latents import encode as encode
from diff_es.calibration.latents import encode_batch as encode_batch
from diff_es.calibration.sources import CalibrationSource as CalibrationSource
from diff_es.calibration.sources import DatasetSource as DatasetSource
from diff_es.calibration.sources import LiveSource as LiveSource
from diff_es.calibration.sources import SamplingSource as SamplingSource
from diff_es.calibration.sources import first_step as first_step
from diff_es.calibration.sources import record_calls as record_calls
from diff_es.calibration.statistics import LayerStatistics as LayerStatistics
from diff_es.calibration.store import CalibrationStats as CalibrationStats
