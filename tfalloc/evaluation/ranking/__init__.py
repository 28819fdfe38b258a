"""How well a score ranks the rows of a trial: AUCC with costs, Qini and AUUC without."""

from tfalloc.evaluation.ranking.aucc import aucc, compare_aucc
from tfalloc.evaluation.ranking.bootstrap import RankMetric
from tfalloc.evaluation.ranking.qini import auuc, qini

__all__ = ["RankMetric", "aucc", "auuc", "compare_aucc", "qini"]
