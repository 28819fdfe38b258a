"""Searches settings of `AllocationModel` by what their policies bring at a budget (with Optuna)."""

from tfalloc._backend import require_tensorflow

require_tensorflow()

from tfalloc.tuning.curve import lambda_curve, plot_lambda_curve  # noqa: E402
from tfalloc.tuning.results import Study  # noqa: E402
from tfalloc.tuning.search import study  # noqa: E402
from tfalloc.tuning.space import default_space  # noqa: E402

__all__ = ["Study", "default_space", "lambda_curve", "plot_lambda_curve", "study"]
