"""From a network's raw outputs to response and cost of every arm, and the losses that fit them."""

from tfalloc.models.heads.checks import HeadSettings as HeadSettings
from tfalloc.models.heads.checks import check_amounts as check_amounts
from tfalloc.models.heads.checks import check_settings as check_settings
from tfalloc.models.heads.checks import check_trial as check_trial
from tfalloc.models.heads.checks import choose_cost_head as choose_cost_head
from tfalloc.models.heads.distributions import LOSSES as LOSSES
from tfalloc.models.heads.distributions import check_loss as check_loss
from tfalloc.models.heads.layer import Heads as Heads

__all__ = [
    "LOSSES",
    "HeadSettings",
    "Heads",
    "check_amounts",
    "check_loss",
    "check_settings",
    "check_trial",
    "choose_cost_head",
]
