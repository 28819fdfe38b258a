"""`AllocationModel`: a Keras model whose predictions are trained through the allocation.

The model only wires: features -> preprocessor -> network -> heads -> (v, c). What a training step
does is in `train_step`, which losses it has in `objective`, when training ends in `phases`. Raw
features are turned into a matrix in the input pipeline, never in the compiled step, because string
look-ups would keep XLA from compiling it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.data import FeatureSchema, RCTData, build_preprocessor
from tfalloc.models import cross_fitting, imitation, phases, replicas, resume
from tfalloc.models.encoding import check_bins
from tfalloc.models.fit_arguments import (
    KERAS_FIT,
    batches_from,
    in_batches,
    lost_files_named,
    one_batch,
    refuse_class_weight,
    refuse_unknown,
    split_rows,
)
from tfalloc.models.heads import (
    Heads,
    HeadSettings,
    check_loss,
    check_settings,
    check_trial,
    choose_cost_head,
)
from tfalloc.models.matrix_batches import as_batches, as_trial_data, refuse_beside, sample_matrix
from tfalloc.models.networks import (
    build_network,
    copy_untrained,
    encoding_of,
    freeze,
    frozen_layers,
)
from tfalloc.models.schedules import check_budgets
from tfalloc.models.train_step import TrainStep
from tfalloc.models.whole_set import whole_set_outcome

# What a model is without further arguments (docs/which-method-when.md).
ENCODED, NUM_BINS = "encoded", 16


@keras.saving.register_keras_serializable(package="tfalloc")
class AllocationModel(TrainStep):
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
        self.goal_influence: Any = None  # of each row last evaluated, see `whole_set.WholeSet`
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

    # Fit -----------------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = None,
        epochs: int = 20,
        validation_data: Any = None,
        validation_split: float | None = None,
        warm_start: bool | str = False,
        doubly_robust: bool = False,
        early_stopping: bool | int = True,
        monitor: str | None = None,
        callbacks: Any = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        resume_from: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains, by default with early stopping on a validation share of the rows.

        A model that has weights, trained or loaded, continues from them.

        Args:
          x: `RCTData`; or a dataset of (features, targets[, sample_weight]) as `RCTData.batches`
            gives; or features, with `y` the dict of targets.
          y: {"treatment", "response", "cost"[, "propensity"]}, only with plain features.
          batch_size: rows a step; None: 10,000 (the paper's), less on small data. A dataset
            brings its own batches.
          epochs: at most this many; with a warm start, of each phase.
          validation_data: same kinds as `x`; None: `validation_split` of the rows of `x`.
          validation_split: share of the rows kept for validation; None: 0.2, or validation_data.
            A dataset cannot be split.
          warm_start: whether to train two-stage (goal_weight 0) to its least `val_loss` first, and
            through the allocation from there with a fresh optimizer. The best epoch by `monitor`
            is kept, but one through the allocation only if it beats that two-stage model (by more
            than a standard error of the paired difference, if the monitor is "val_goal"): on the
            validation rows the result is never worse than two-stage. The logs have `phase`, 1 or 2.
            "given": the weights that the model has, trained, loaded or from `imitate`, take the
            place of that two-stage model, and there is no first phase.
          doubly_robust: whether to train two-stage copies of this model first, cross-fitted in two
            folds of the training rows, whose predictions take noise out of the goal's gradient:
            `gradients.Smoothed` becomes doubly robust, `gradients.Integrated` gets a baseline; the
            others have no use for them. Costs two trainings of at most `epochs`.
          early_stopping: stop, or end a phase, after 5 epochs (or the number given) without a
            better `monitor`, and keep the best weights; off without validation rows, or with an
            `EarlyStopping` of your own among `callbacks`.
          monitor: metric that decides, the larger the better if its name has "goal" in it, else
            the smaller; None: "val_goal" if there is a budget, else "val_loss". Where responses
            are rare "val_goal" is noisy, and two-stage training does better by "val_loss".
          callbacks: as in Keras. `val_loss`, `val_goal`, `val_response_loss`, … can be monitored.
          shuffle: whether rows are reshuffled each epoch, by the model's seed.
          sample_weight: [rows], with plain features; `RCTData` and datasets bring their own.
          initial_epoch: as in Keras.
          resume_from: directory that keeps the state of training at the ends of epochs. A run that
            was killed, at whatever moment, and is started again by the same calls goes on from the
            last of them, and ends with the weights and the History that it would have had; a
            finished one only gets these back. Callbacks are restored too: by `get_state()` and
            `set_state(state)` if they have them, else attributes that are numbers, arrays or
            containers of these. A dataset must have the same order in every process.
          **kwargs: as `keras.Model.fit`: verbose, steps_per_epoch, validation_steps,
            validation_batch_size, validation_freq.

        Metrics of an epoch: `loss`, the prediction losses (`response_loss` + `cost_loss`); through
        the allocation also means over batches of `goal` and `alpha` (the first gradient's),
        `matched` rows, and `matched_responders` (NaN in the two-stage phase of a warm start). With
        `val_` what `evaluate` gives.

        Rows come as one endless stream, whose batch n is a function of (seed, n): an epoch is
        `steps_per_epoch` batches of it, by default as many as there are whole ones among the rows
        (rounded up to a multiple of `steps_per_execution`).

        Raises:
          ValueError: if the data do not fit the model, or `resume_from` is of a run with other data
            or settings, before any step is taken.
          OSError: if a file of streamed data cannot be read any more.
        """
        objective = self._compiled_objective()
        refuse_class_weight(kwargs.pop("class_weight", None))
        refuse_unknown("fit", kwargs, KERAS_FIT)
        train, valid, batch_size = split_rows(
            x, y, sample_weight, validation_data, validation_split, batch_size, self.seed
        )
        callbacks = phases.plan(
            callbacks,
            objective,
            warm_start=warm_start,
            epochs=epochs - initial_epoch,
            early_stopping=early_stopping,
            monitor=monitor,
            validate=None if valid is None else lambda: self.evaluate(valid, return_dict=True),
        )
        self._prepare(train, warm_start)
        if isinstance(train, RCTData):
            kwargs["steps_per_epoch"] = kwargs.get("steps_per_epoch") or len(train) // batch_size
        first_epoch = initial_epoch
        if resume_from is not None:
            settings = {
                "batch_size": batch_size,
                "epochs": epochs,
                "warm_start": warm_start,
                "doubly_robust": doubly_robust,
                "early_stopping": early_stopping,
                "monitor": monitor,
                "shuffle": shuffle,
                "initial_epoch": initial_epoch,
                **kwargs,
            }
            run = resume.Run(resume_from, self, callbacks, settings, train, valid)
            if run.finished:
                return run.result()
            callbacks, first_epoch = run.callbacks, run.first_epoch
        order = {"shuffle": shuffle, "seed": self.seed, "drop_remainder": True}
        outcome_model = None
        if doubly_robust:  # not kept: a run that goes on trains the same copies again
            outcome_model = cross_fitting.copies_of(self, train, valid, batch_size, epochs, order)
        self._use_outcome_model(outcome_model)
        batches = batches_from(
            train,
            self.preprocessor,
            batch_size,
            epochs=(initial_epoch, first_epoch),
            steps_per_epoch=kwargs.get("steps_per_epoch"),
            steps_per_execution=self.steps_per_execution,
            **order,
        )
        try:
            with lost_files_named(train, valid), self.distribute_strategy.scope():
                return super().fit(
                    replicas.by_rows(batches),
                    epochs=initial_epoch + phases.count(warm_start) * (epochs - initial_epoch),
                    initial_epoch=first_epoch,
                    validation_data=in_batches(valid, kwargs.get("validation_batch_size")),
                    callbacks=callbacks,
                    shuffle=False,  # the batches are shuffled already
                    **kwargs,
                )
        finally:
            self.train_through_allocation(objective.through_allocation)

    def _prepare(self, train: Any, warm_start: bool | str) -> None:
        """Fits preprocessing and starting points if they are not."""
        if not self._adapted and warm_start == phases.GIVEN:
            raise ValueError(
                f"warm_start={phases.GIVEN!r} starts from weights that the model has, and it has "
                "none yet: fit, load or imitate first, or pass warm_start=True."
            )
        if not self._adapted:
            self.adapt(train)
        self._check_trainable()

    imitate = imitation.imitate

    # Evaluate ------------------------------------------------------------------------------

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = None,
        sample_weight: Any = None,
        return_dict: bool = False,
        budget: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        verbose: Any = "auto",
        **kwargs: Any,
    ) -> Any:
        """Losses and the goal over the whole set: exact outcome curves, not a mean of batches.

        Args:
          x: as in `fit`.
          y: as in `fit`.
          batch_size: rows a step of prediction; it does not change the result.
          sample_weight: [rows], with plain features; `RCTData` and datasets bring their own.
          return_dict: whether to return a dict instead of a list.
          budget: cost per user, one or several; None: the validation budgets compiled.
          steps: number of batches; None: all.
          callbacks: as in Keras; told of the beginning and the end.
          verbose: for Keras, which calls this for validation; nothing is printed.
          **kwargs: what Keras passes itself.

        Returns:
          loss (the prediction losses), response_loss, cost_loss and, where there is a budget:
          goal (response per user at that budget), cost (per user at the chosen alpha), alpha and
          matched (rows), means over budgets if there are several, and then also the goal at each,
          "goal@0.04". Where these rows do not show a price that keeps a budget, its goal counts as
          the mean response under the cheapest arm, and cost and alpha are NaN.

        Raises:
          ValueError: if the model has no network yet, the set is empty, a budget is negative or not
            finite, or an argument has no use with the others.
        """
        refuse_unknown("evaluate", kwargs, {"_use_cached_eval_dataset"})
        if isinstance(x, tf.data.Dataset):
            refuse_beside(x, y=y, sample_weight=sample_weight)
        else:
            x = as_trial_data(x, y, sample_weight)
        self._require_network()
        if budget is not None:
            budgets = check_budgets(budget)
        else:
            budgets = self._objective.validation_budgets if self._objective else ()
        if callbacks is not None and not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList(callbacks, model=self)
        if callbacks is not None:
            callbacks.on_test_begin()
        batches = as_batches(x, self.preprocessor, batch_size or 10_000)
        if steps is not None:
            batches = batches.take(steps)
        logs, self.goal_influence = whole_set_outcome(self, batches, budgets)
        if callbacks is not None:
            callbacks.on_test_end(logs)
        return logs if return_dict else list(logs.values())

    # Single batches ------------------------------------------------------------------------

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """One training step on a batch of raw features and their targets, after `adapt` or `fit`.

        Raises:
          ValueError: if neither was called, a class_weight is given, or the batch does not fit.
        """
        refuse_class_weight(class_weight)
        self._compiled_objective()
        if not self._adapted:
            raise ValueError("train_on_batch starts from nothing: call adapt(data) or fit first.")
        [batch] = as_batches(one_batch(x, y, sample_weight), self.preprocessor, 1)
        matrix, targets, weight = keras.utils.unpack_x_y_sample_weight(batch)
        return super().train_on_batch(matrix, targets, weight, return_dict=return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """What `evaluate` gives for a dataset of one batch; see `train_on_batch`."""
        return self.evaluate(one_batch(x, y, sample_weight), return_dict=return_dict)

    def predict_on_batch(self, x: Any) -> dict[str, np.ndarray]:
        """What `predict` gives for one batch of raw features."""
        return self.predict(x, verbose=0)

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

    # Losses and copies ---------------------------------------------------------------------

    def _choose_losses(self, **outcome_losses: str | None) -> None:
        self._outcome_losses = {
            name: check_loss(self._head_of[name.removesuffix("_loss")], loss, name)
            for name, loss in outcome_losses.items()
        }
        if self.outcome_heads is not None:
            self.outcome_heads.use_losses(**self._outcome_losses)

    def two_stage_copy(self, seed: int) -> AllocationModel:
        """An untrained model of the same shape, compiled with goal_weight 0, on the matrix."""
        shape = {**self.get_config(), "preprocessor": None, "seed": seed}
        shape.pop("name")
        copy = type(self).from_config(shape)
        copy.outcome_heads.set_weights(self.outcome_heads.get_weights())
        copy_untrained(self.network, copy.network)
        optimizer = type(self.optimizer).from_config(self.optimizer.get_config())
        execution = {"jit_compile": bool(self.jit_compile), "run_eagerly": self.run_eagerly}
        copy.compile(optimizer, **execution, **self._outcome_losses)
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
        if self._objective is None:  # trained by `imitate` only, say
            return {}
        return {**super().get_compile_config(), **self._outcome_losses}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """The network is built by the constructor."""


def _integer(name: str, value: Any, least: int) -> int:
    if not isinstance(value, (int, np.integer)) or not least <= value < 2**31:
        raise ValueError(f"{name}={value!r}: expected at least {least}, an integer below 2^31.")
    return int(value)
