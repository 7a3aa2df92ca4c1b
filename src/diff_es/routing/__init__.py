"""USE stage weights at inference."""

from diff_es.routing.apply import apply_ as apply_
from diff_es.routing.apply import check_model as check_model
from diff_es.routing.apply import install_ as install_
from diff_es.routing.apply import is_routed as is_routed
from diff_es.routing.apply import remove_ as remove_
from diff_es.routing.apply import routed as routed
from diff_es.routing.artefact import load as load
from diff_es.routing.artefact import save as save
from diff_es.routing.compiled import Compiled as Compiled
from diff_es.routing.compiled import compile_ as compile_
from diff_es.routing.compiled import compiled as compiled
from diff_es.routing.compiled import uncompile_ as uncompile_
from diff_es.routing.planner import ModePlan as ModePlan
from diff_es.routing.planner import choose_mode as choose_mode
from diff_es.routing.residence import Mode as Mode
from diff_es.routing.router import Router as Router
