"""From a network's raw outputs to response and cost of every arm, and the losses that fit them."""

from tfalloc.models.heads.families import LOSSES as LOSSES
from tfalloc.models.heads.families import check_loss as check_loss
from tfalloc.models.heads.layer import Heads as Heads
from tfalloc.models.heads.setup import Setup as Setup
from tfalloc.models.heads.setup import check_setup as check_setup
from tfalloc.models.heads.start import check_trial as check_trial
from tfalloc.models.heads.start import choose_cost_family as choose_cost_family

__all__ = [
    "LOSSES",
    "Heads",
    "Setup",
    "check_loss",
    "check_setup",
    "check_trial",
    "choose_cost_family",
]
