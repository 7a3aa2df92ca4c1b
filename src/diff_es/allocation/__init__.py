"""MAP stage levels to layer levels: sparing the layers that a stage needs most."""

from diff_es.allocation.knapsack import Frontier as Frontier
from diff_es.allocation.sensitivity import Sensitivity as Sensitivity
from diff_es.allocation.sensitivity import measure_sensitivity as measure_sensitivity
