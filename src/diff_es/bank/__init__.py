"""KEEP the nested pruned weights, read lazily."""

from diff_es.bank.bank import Bank as Bank
from diff_es.bank.bank import BankInfo as BankInfo
from diff_es.bank.pruned import Pruned as Pruned
from diff_es.bank.pruned import PrunedInfo as PrunedInfo
from diff_es.bank.pruned import save_pruned as save_pruned
from diff_es.bank.thin import ThinLayer as ThinLayer
from diff_es.bank.thin import ThinSource as ThinSource
