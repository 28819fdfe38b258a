"""What a policy achieves: outcomes at equal cost, curves and paired comparisons, with intervals."""

from tfalloc.evaluation.calibration import calibration
from tfalloc.evaluation.compare import compare
from tfalloc.evaluation.curves import outcome_curve
from tfalloc.evaluation.plots import plot_calibration, plot_outcome_curves, plot_treatment_mix
from tfalloc.evaluation.policy import PolicyOutcome, policy_outcome
from tfalloc.evaluation.predict import Predictions, predict, predict_chunks, predict_trial
from tfalloc.evaluation.ranking.aucc import aucc, compare_aucc
from tfalloc.evaluation.ranking.bootstrap import RankMetric
from tfalloc.evaluation.ranking.qini import auuc, qini
from tfalloc.evaluation.truth import mix_curve, oracle_curve, true_curve
from tfalloc.mckp import upgrade_prices as aucc_score

__all__ = [
    "PolicyOutcome",
    "Predictions",
    "RankMetric",
    "aucc",
    "aucc_score",
    "auuc",
    "calibration",
    "compare",
    "compare_aucc",
    "mix_curve",
    "oracle_curve",
    "outcome_curve",
    "plot_calibration",
    "plot_outcome_curves",
    "plot_treatment_mix",
    "policy_outcome",
    "predict",
    "predict_chunks",
    "predict_trial",
    "qini",
    "true_curve",
]
