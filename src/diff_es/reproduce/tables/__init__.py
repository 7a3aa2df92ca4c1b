"""The tables of the paper, one file each; importing this package registers them."""

from diff_es.reproduce.tables import table1 as table1
