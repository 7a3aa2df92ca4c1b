"""The tables and figures of the paper, one file each; importing this package registers them."""

from diff_es.reproduce.tables import figures as figures
from diff_es.reproduce.tables import table1 as table1
from diff_es.reproduce.tables import table2 as table2
from diff_es.reproduce.tables import table3 as table3
from diff_es.reproduce.tables import table5 as table5
from diff_es.reproduce.tables import table6 as table6
from diff_es.reproduce.tables import table7 as table7
from diff_es.reproduce.tables import table9 as table9
from diff_es.reproduce.tables import table10 as table10
from diff_es.reproduce.tables import table11 as table11
