"""FIND the pruning schedule: ask/tell, no model, no torch."""

from __future__ import annotations

from diff_es.search.base import Candidate as Candidate
from diff_es.search.base import Evaluator as Evaluator
from diff_es.search.base import FitnessSummary as FitnessSummary
from diff_es.search.base import GenerationRecord as GenerationRecord
from diff_es.search.base import Outcome as Outcome
from diff_es.search.base import Race as Race
from diff_es.search.base import ScheduleSearch as ScheduleSearch
from diff_es.search.base import Scored as Scored
from diff_es.search.base import Trial as Trial
from diff_es.search.evolution import EvolutionarySearch as EvolutionarySearch
from diff_es.search.evolution import EvolutionConfig as EvolutionConfig
from diff_es.search.evolution import level_switches as level_switches
from diff_es.search.journal import Journal as Journal
from diff_es.search.journal_lines import JournalEntry as JournalEntry
from diff_es.search.journal_lines import JournalHeader as JournalHeader
from diff_es.search.loop import SearchResult as SearchResult
from diff_es.search.loop import in_process as in_process
from diff_es.search.loop import search_schedule as search_schedule
from diff_es.search.loop import search_with as search_with
from diff_es.search.racing import Racing as Racing
from diff_es.search.racing import Rival as Rival
from diff_es.search.starts import START_KINDS as START_KINDS
from diff_es.search.starts import draw_unseen as draw_unseen
from diff_es.search.starts import random_composition as random_composition
from diff_es.search.starts import start_population as start_population
