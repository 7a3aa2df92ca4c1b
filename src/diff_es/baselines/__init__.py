"""What we compare with. The searches need no torch."""

from __future__ import annotations

from diff_es.baselines.config import BaselineConfig as BaselineConfig
from diff_es.baselines.proposals import Proposals as Proposals
from diff_es.baselines.proposals import ProposalSearch as ProposalSearch
from diff_es.baselines.registry import SearchSettings as SearchSettings
from diff_es.baselines.registry import algorithms as algorithms
from diff_es.baselines.registry import journal_header as journal_header
from diff_es.baselines.registry import settings_for as settings_for
from diff_es.baselines.three_stage import three_stage as three_stage
