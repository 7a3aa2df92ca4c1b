"""KEEP the nested pruned weights, read lazily."""

from diff_es.bank.bank import Bank as Bank
from diff_es.bank.bank import BankInfo as BankInfo
from diff_es.bank.thin import ThinLayer as ThinLayer
from diff_es.bank.thin import ThinSource as ThinSource
