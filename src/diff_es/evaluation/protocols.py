"""Named protocols: what the field means by "FID on ImageNet" or "on COCO", in every detail that moves the number.

A protocol says which images are generated (how many, of what, from which seeds), what they are compared with, and by
which networks. Numbers of one protocol can be compared with each other; what may still differ (weights, guidance,
steps) stands beside each number. To add a protocol, register a `NamedProtocol`.
"""

from __future__ import annotations

from diff_es.evaluation.adm import ADM_IMAGENET256
from diff_es.evaluation.coco import COCO2017
from diff_es.evaluation.fashion import FASHION
from diff_es.evaluation.protocol import NamedProtocol
from diff_es.registry import Registry

#: All protocols by name.
protocols: Registry[NamedProtocol] = Registry("protocol")
for _protocol in (ADM_IMAGENET256, COCO2017, FASHION):
    protocols.register(_protocol.name, _protocol)
