"""How good an image looks by itself: trained networks that need no dense image beside it.

These measure *quality*, not fidelity to dense: a good picture of something else scores well. The paper searches with
them (section 4.1). Each network is loaded when it is first used, from one weights file:

1. the file that `use_weights(name, path)` or the environment variable `DIFF_ES_WEIGHTS_<NAME>` names, else
2. the file in the library's own cache, which is downloaded there when it is missing.

Nothing stands in for a missing file: offline, the first use is an error that says where the file is looked for.
"""

from __future__ import annotations

from diff_es.metrics.no_reference.clip_iqa import CLIP_IQA
from diff_es.metrics.no_reference.network import QualityNetwork
from diff_es.metrics.no_reference.topiq import TOPIQ
from diff_es.metrics.no_reference.weights import use_weights

__all__ = ["CLIP_IQA", "TOPIQ", "QualityNetwork", "use_weights"]
