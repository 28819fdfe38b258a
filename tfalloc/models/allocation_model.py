"""`AllocationModel`: a Keras model whose predictions are trained through the allocation.

The model only wires: features -> preprocessor -> network -> heads -> (v, c); how it is trained and
judged is `GoalModel`'s. Raw features are turned into a matrix in the input pipeline, never in the
compiled step, because string look-ups would keep XLA from compiling it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfalloc.data import FeatureSchema, build_preprocessor
from tfalloc.models import imitation, replicas
from tfalloc.models.encoding import check_bins
from tfalloc.models.goal_model import GoalModel
from tfalloc.models.heads import (
    Heads,
    HeadSettings,
    check_loss,
    check_settings,
    check_trial,
    choose_cost_head,
)
from tfalloc.models.matrix_batches import as_batches, as_trial_data, sample_matrix
from tfalloc.models.networks import (
    build_network,
    copy_untrained,
    encoding_of,
    freeze,
    frozen_layers,
)

# What a model is without further arguments (docs/which-method-when.md).
ENCODED, NUM_BINS = "encoded", 16


@keras.saving.register_keras_serializable(package="tfalloc")
class AllocationModel(GoalModel):
    """Predicts response and cost of every treatment, trained for the budgeted assignment.

    Args:
      num_treatments: K, at least 1.
      backbone: "encoded" (16 units with bins=16 and linear=True; None is the same), "small" (16
        units), "paper" (512-256-128-64), widths of hidden layers such as (64, 32), or any Keras
        model from the preprocessed features [batch, num_features] to [batch, width].
      heads: "independent", one head for each outcome of each arm (the paper's); or "marginal", for
        arms in the order of their cost: response and cost of the cheapest, then from arm to arm a
        marginal cost (positive) and a return per unit of it, the price at which a user is
        upgraded. It learns differences themselves, which independent heads drown in the noise of
        two predictions; its response may leave its range by a little. Or "spline", for many arms
        in the order of their dose: curves over the arms, from few outputs.
      response_head: "binary" (cross entropy), "nonnegative" (squared error or Poisson), "hurdle"
        (zero for most users and heavy-tailed for the rest, as revenue: whether, then how much),
        "real" (may be negative). None: "binary" if all responses are 0 or 1, "nonnegative" if
        none is negative, else "real". Prefer "hurdle" to "nonnegative" where a few large values
        would rule the squared error: most responses are 0 and the positive ones vary by tenfold.
      cost_head: "binary", "nonnegative", "hurdle", "constant" (known in advance and the same for
        all users of an arm), or "on_response" (an amount paid on each response: coins, coupons).
        None: "constant" if each arm has one cost, "binary" if costs are 0 or 1, else
        "nonnegative".
      monotone: whether response and cost increase in the order of the arms, for every user and
        whatever the weights; arms whose rates do not in the trial start at isotonic ones.
      cost_amounts: [K], cost per response in each arm, for "on_response": cost = amount times
        predicted response, with no output and no loss of its own.
      bins: number of bins of a piecewise-linear encoding of every preprocessed feature, beside the
        features themselves; 16 is usual. It shows a network the thresholds that trees find by
        themselves. None: without; "auto": 16 with backbone="encoded", else without.
      linear: whether to add a linear path from features (and their bins) to the outputs, around
        the backbone ("wide and deep"): the network then starts as a logistic regression does.
        None: with backbone="encoded" only.
      preprocessor: Keras model from raw features to [batch, num_features]; None: built from the
        training rows by `fit` (or `adapt`).
      num_features: builds the network at once for a plain matrix without preprocessing.
      seed: of initial weights, data order and random budgets; from 0 to 2^31 - 1.

    `model(features)` and `predict` take raw features and return {"response": [batch, K], "cost":
    [batch, K]}: response per user (a probability if binary) and cost per user.

    Raises:
      ValueError: if an argument is unknown or out of range.

    Example:
      >>> import tfalloc
      >>> data = tfalloc.datasets.five_arms(2_000, seed=0).data
      >>> model = tfalloc.AllocationModel(num_treatments=5, backbone="small", seed=0)
      >>> model.compile(goal_weight=0.1, budget=(1.5, 2.5))
      >>> history = model.fit(data, batch_size=1_000, epochs=1, verbose=0)
      >>> sorted(model.predict(data.take(range(3)), verbose=0))
      ['cost', 'response']

    Source: Yan et al. 2023, Eq. 11 and Section 3.
    """

    def __init__(
        self,
        num_treatments: int,
        backbone: str | Sequence[int] | keras.Model | None = None,
        heads: str = "independent",
        response_head: str | None = None,
        cost_head: str | None = None,
        monotone: bool = False,
        cost_amounts: Any = None,
        bins: int | str | None = "auto",
        linear: bool | None = None,
        preprocessor: keras.Model | None = None,
        num_features: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        num_treatments = _integer("num_treatments", num_treatments, 1)
        seed = _integer("seed", seed, 0)
        self.cost_amounts = check_settings(
            num_treatments, heads, response_head, cost_head, monotone, cost_amounts
        )
        self.num_treatments = num_treatments
        self.backbone = ENCODED if backbone is None else backbone
        encoded = isinstance(self.backbone, str) and self.backbone == ENCODED
        self.bins = check_bins((NUM_BINS if encoded else None) if bins == "auto" else bins)
        self.linear = encoded if linear is None else bool(linear)
        self.heads, self.monotone = heads, bool(monotone)
        self.seed = seed
        self.preprocessor = preprocessor
        self.network: Any = None  # a functional model once the number of features is known
        self._head_of: dict[str, Any] = {"response": response_head, "cost": cost_head}
        self._outcome_losses: dict[str, Any] = {}
        self.outcome_heads: Any = None
        if preprocessor is not None:
            num_features = preprocessor.output_shape[-1]
        if num_features is not None and response_head and cost_head:
            self._assemble(num_features, self._head_of)

    # Building ------------------------------------------------------------------------------

    def adapt(self, data: Any) -> None:
        """Fits preprocessing and the heads' starting points to training rows.

        `fit` calls this with its training part; call it yourself to inspect or to export a model
        before training.

        Args:
          data: `RCTData`, or a dataset of (features, targets).
        """
        data = as_trial_data(data)
        if data.num_treatments != self.num_treatments:
            raise ValueError(
                f"the data have {data.num_treatments} treatments {data.treatment_names}, but the "
                f"model was made with num_treatments={self.num_treatments}."
            )
        head_of = self._choose_heads(data)
        if self.network is None:
            if self.preprocessor is None:
                self.preprocessor = build_preprocessor(data)
            with self.distribute_strategy.scope():
                self._assemble(self.preprocessor.output_shape[-1], head_of)
        encoding = encoding_of(self.network)
        if encoding is not None and not encoding.fitted:
            encoding.fit(sample_matrix(data, self.preprocessor, self.seed))
        self.outcome_heads.start_from(data.arm_moments("response"), data.arm_moments("cost"))

    def _choose_heads(self, data: Any) -> dict[str, Any]:
        """The head of each outcome; refuses a trial that the heads cannot learn from."""
        head_of = {
            "response": self._head_of["response"] or data.response_kind,
            "cost": self._head_of["cost"] or choose_cost_head(data),
        }
        check_trial(
            data,
            HeadSettings(
                self.num_treatments,
                self.heads,
                head_of["response"],
                head_of["cost"],
                cost_amounts=self.cost_amounts,
            ),
        )
        return head_of

    def _make_heads(self, head_of: dict[str, Any]) -> Any:
        heads = Heads(
            self.num_treatments,
            head_of["response"],
            head_of["cost"],
            heads=self.heads,
            monotone=self.monotone,
            cost_amounts=self.cost_amounts,
            name="outcome_heads",
        )
        heads.use_losses(**self._outcome_losses)
        return heads

    def _assemble(self, num_features: int, head_of: dict[str, Any]) -> None:
        heads = self._make_heads(head_of)
        network = build_network(
            num_features,
            heads.num_outputs,
            self.backbone,
            bins=self.bins,
            linear=self.linear,
            seed=self.seed,
            dtype=self.dtype_policy,
        )
        if self.preprocessor is not None:
            # It runs in the input pipeline: string look-ups must not keep XLA from the step.
            for layer in self.preprocessor.layers:
                layer.supports_jit = True
        self.num_features, self._head_of = num_features, head_of
        self.network, self.outcome_heads = network, heads
        self.built = True

    def _require_network(self) -> keras.Model:
        if self.network is None:
            raise ValueError(
                "the model has no network yet: call fit(data), adapt(data), or pass "
                "preprocessor= (or num_features=) with response_head= and cost_head=."
            )
        return self.network

    # Forward -------------------------------------------------------------------------------

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Predictions for raw features, taken by name and checked as in `predict`."""
        if self.preprocessor is not None:
            inputs = FeatureSchema.of_model(self.preprocessor).tensors(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Predictions for raw features."""
        network = self._require_network()
        if self.preprocessor is not None:
            inputs = self.preprocessor(inputs)
        return self._predictions(network(inputs, training=training))

    def _predictions(self, raw: Any) -> dict[str, Any]:
        return self.outcome_heads(raw)

    # Training ------------------------------------------------------------------------------

    def _choose_losses(self, **outcome_losses: str | None) -> None:
        self._outcome_losses = {
            name: check_loss(self._head_of[name.removesuffix("_loss")], loss, name)
            for name, loss in outcome_losses.items()
        }
        if self.outcome_heads is not None:
            self.outcome_heads.use_losses(**self._outcome_losses)

    def imitate(
        self,
        x: Any,
        predictions: Any,
        *,
        epochs: int = 30,
        batch_size: int | None = None,
        learning_rate: float = 3e-3,
        sample_weight: Any = None,
        seed: int | None = None,
        verbose: Any = "auto",
    ) -> keras.callbacks.History:
        """Trains the network on what another learner predicts of every arm ("distillation").

        A trial shows one arm of each user, a teacher speaks of all of them: the network comes to
        predict what the teacher does, and `fit` goes on from there through the allocation. The
        model need not be compiled; an optimizer that it has is left as it is, and so are losses
        chosen by `compile`, which are used here.

        Args:
          x: `RCTData`, on which preprocessing and heads start as in `fit` if they have not; or,
            after `adapt` or `fit`, raw features as for `predict`.
          predictions: {"response": [N, K], "cost": [N, K]}, means per user as `predict` gives them,
            in the order of the rows of `x`. A teacher that overfits should be cross-fitted: each
            row predicted by a copy that has not seen it. Costs that are "constant" or
            "on_response" are not learned, and may be left out.
          epochs: passes over the rows.
          batch_size: rows a step; None: 1,000, less on small data.
          learning_rate: of Adam at first; it falls to 0 along a cosine.
          sample_weight: [N], what a row counts; None: that of the trial, if it has one.
          seed: of the order of the rows; None: the model's.
          verbose: as in `keras.Model.fit`.

        Returns:
          History of `loss`, `response_loss` and `cost_loss`, means of each epoch over rows and
          arms. Where predictions are imitated exactly, squared errors are 0, but cross entropy and
          Poisson are not.

        The feature matrix of all rows is held in memory, as the predictions are.

        Raises:
          ValueError: if predictions are not finite [N, K] within the range of their head; if a head
            is "hurdle", whose loss wants outcomes, not means; or an argument is out of range.

        Example:
          >>> import tfalloc
          >>> trial = tfalloc.datasets.five_arms(2_000, seed=0)
          >>> truth = {"response": trial.true_response, "cost": trial.true_cost}
          >>> model = tfalloc.AllocationModel(num_treatments=5, backbone="small", seed=0)
          >>> history = model.imitate(trial.data, truth, epochs=2, verbose=0)
          >>> history.history["loss"][1] < history.history["loss"][0]
          True

        Source: soft targets, Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural
        network".
        """
        return imitation.imitate(
            self,
            x,
            predictions,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            sample_weight=sample_weight,
            seed=seed,
            verbose=verbose,
        )

    def two_stage_copy(self, seed: int) -> AllocationModel:
        """An untrained model of the same shape, compiled with goal_weight 0, on the matrix."""
        shape = {**self.get_config(), "preprocessor": None, "seed": seed}
        shape.pop("name")
        copy = type(self).from_config(shape)
        copy.outcome_heads.set_weights(self.outcome_heads.get_weights())
        copy_untrained(self.network, copy.network)
        optimizer = type(self.optimizer).from_config(self.optimizer.get_config())
        copy.compile(optimizer, jit_compile=bool(self.jit_compile), **self._outcome_losses)
        return copy

    def outcomes_of(self, matrix: Any) -> dict[str, Any]:
        """Predictions for a preprocessed batch, as a pure function of tensors."""
        return self._predictions(self.network(matrix, training=False))

    @property
    def _adapted(self) -> bool:
        return self.network is not None and self.outcome_heads.started

    def _prediction_losses(
        self, raw: Any, targets: dict[str, Any], sample_weight: Any
    ) -> dict[str, Any]:
        """Mean prediction loss of each outcome, scalars; rows weigh `sample_weight`."""
        rows = self.outcome_heads.errors(
            raw, targets["treatment"], targets["response"], targets["cost"]
        )
        return {f"{name}_loss": replicas.mean(x, sample_weight) for name, x in rows.items()}

    # Prediction ----------------------------------------------------------------------------

    def predict(self, x: Any, *, batch_size: int | None = None, **kwargs: Any) -> Any:
        """Predictions for raw features (or `RCTData`, or a dataset): {"response", "cost"}.

        Args:
          x: raw features, `RCTData`, or a dataset whose first component is features.
          batch_size: rows a step; it does not change the result.
          **kwargs: as `keras.Model.predict`.

        Returns:
          {"response": [rows, K], "cost": [rows, K]} as NumPy arrays.
        """
        self._require_network()
        batches = as_batches(x, self.preprocessor, batch_size or 10_000, targets=False)
        return super().predict(batches, **kwargs)

    def predict_step(self, data: Any) -> dict[str, Any]:
        """Predictions for a preprocessed batch."""
        matrix, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self.outcomes_of(matrix)

    def make_predict_function(self, force: bool = False) -> Any:
        """Without XLA: the last batch has another shape, and compiling it anew costs seconds."""
        jit_compile: bool = self.jit_compile  # type: ignore[has-type]
        self.jit_compile = False
        try:
            return super().make_predict_function(force)
        finally:
            self.jit_compile = jit_compile

    # Saving --------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs, network included if there is one."""
        backbone = self.backbone
        if isinstance(backbone, keras.Model):
            backbone = keras.saving.serialize_keras_object(backbone)
        elif isinstance(backbone, (list, tuple)):
            backbone = [int(width) for width in backbone]
        preprocessor = self.preprocessor
        if preprocessor is not None:
            preprocessor = keras.saving.serialize_keras_object(preprocessor)
        return {
            **{
                key: value
                for key, value in super().get_config().items()
                if key in ("name", "dtype")
            },
            "num_treatments": self.num_treatments,
            "backbone": backbone,
            "heads": self.heads,
            "response_head": self._head_of["response"],
            "cost_head": self._head_of["cost"],
            "monotone": self.monotone,
            "cost_amounts": None if self.cost_amounts is None else list(self.cost_amounts),
            "bins": self.bins,
            "linear": self.linear,
            "preprocessor": preprocessor,
            "num_features": None if self.network is None else self.num_features,
            "seed": self.seed,
            "frozen": [] if self.network is None else frozen_layers(self.network, self.backbone),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> AllocationModel:
        """The inverse of `get_config`."""
        config = dict(config)
        frozen = config.pop("frozen", [])
        for key in ("backbone", "preprocessor"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(config[key], custom_objects)
        model = cls(**config)
        if frozen:
            freeze(model._require_network(), frozen)
        return model

    def get_compile_config(self) -> dict[str, Any]:
        """What `compile_from_config` needs; functions without a registered name are left out."""
        return {**super().get_compile_config(), **self._outcome_losses}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """The network is built by the constructor."""


def _integer(name: str, value: Any, least: int) -> int:
    if not isinstance(value, (int, np.integer)) or not least <= value < 2**31:
        raise ValueError(f"{name}={value!r}: expected at least {least}, an integer below 2^31.")
    return int(value)
