"""What we compare with."""

from diff_es.baselines.three_stage import three_stage as three_stage
