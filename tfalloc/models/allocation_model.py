"""`AllocationModel`: a Keras model whose predictions are trained through the allocation.

The model only wires: features -> preprocessor -> network -> heads -> (v, c); in `train_step` also
(v, c) -> gradient of the expected outcome -> surrogate -> optimizer. Raw features are turned into
a matrix in the input pipeline, never in the compiled step, because string look-ups would keep XLA
from compiling it.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfalloc.data import RCTData
from tfalloc.data.preprocessing import build_preprocessor
from tfalloc.gradients import FiniteDifference
from tfalloc.models import objective
from tfalloc.models.heads import FAMILIES, Head
from tfalloc.models.inputs import as_batches, as_trial_data
from tfalloc.models.networks import build_network
from tfalloc.models.validation import whole_set_outcome

COST_HEADS = ("binary", "nonnegative", "constant")


@keras.saving.register_keras_serializable(package="tfalloc")
class AllocationModel(keras.Model):
    """Predicts response and cost of every treatment, trained for the budgeted assignment.

    Args:
      num_treatments: K, at least 1.
      backbone: None or "paper" (512-256-128-64), "small" (16 units), or any Keras model from the
        preprocessed features [batch, num_features] to [batch, width].
      heads: "independent", one head for each outcome of each arm (the paper's).
      response_head: "binary" (cross entropy), "nonnegative" or "real" (squared error); None:
        chosen from the data.
      cost_head: "binary", "nonnegative", or "constant" (costs known in advance and the same for
        all users of an arm); None: chosen from the data.
      preprocessor: Keras model from raw features to [batch, num_features]; None: built from the
        training rows by `fit` (or `adapt`).
      num_features: builds the network at once for a plain matrix without preprocessing.
      seed: of initial weights, data order and random budgets.

    `model(features)` and `predict` take raw features and return {"response": [batch, K], "cost":
    [batch, K]}: response per user (a probability if binary) and cost per user.

    Raises:
      ValueError: if an argument is unknown or out of range.

    Example:
      >>> import tfalloc
      >>> data = tfalloc.datasets.criteo_like(2_000, seed=0).data
      >>> model = tfalloc.AllocationModel(num_treatments=2, backbone="small", seed=0)
      >>> model.compile(goal_weight=1.0, budget=(0.03, 0.05))
      >>> history = model.fit(data, batch_size=500, epochs=1, verbose=0)
      >>> sorted(model.predict(data.take(range(3)), verbose=0))
      ['cost', 'response']

    Source: Yan et al. 2023, Eq. 11 and Section 3.
    """

    def __init__(
        self,
        num_treatments: int,
        backbone: str | keras.Model | None = None,
        heads: str = "independent",
        response_head: str | None = None,
        cost_head: str | None = None,
        preprocessor: keras.Model | None = None,
        num_features: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if num_treatments < 1:
            raise ValueError(f"num_treatments={num_treatments!r}: expected at least 1.")
        if heads != "independent":
            raise ValueError(f"heads={heads!r} is not known; expected 'independent'.")
        if cost_head is not None and cost_head not in COST_HEADS:
            raise ValueError(
                f"cost_head={cost_head!r} is not known; expected one of {COST_HEADS} or None."
            )
        if response_head is not None and response_head not in FAMILIES:
            raise ValueError(
                f"response_head={response_head!r} is not known; expected one of {FAMILIES} or None."
            )
        self.num_treatments = num_treatments
        self.backbone = backbone
        self.heads = heads
        self.seed = seed
        self.preprocessor = preprocessor
        self.network: Any = None  # a functional model once the number of features is known
        self._families: dict[str, Any] = {"response": response_head, "cost": cost_head}
        self._heads: dict[str, Head] = {}
        self._trackers = {
            name: keras.metrics.Mean(name=name)
            for name in ("loss", "response_loss", "cost_loss", "goal", "alpha")
        }
        self._objective: dict[str, Any] = {}
        self._forward: Any = None
        if preprocessor is not None:
            num_features = preprocessor.output_shape[-1]
        if num_features is not None and response_head and cost_head:
            self._assemble(num_features)

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
        if self.network is None:
            if self.preprocessor is None:
                self.preprocessor = build_preprocessor(data)
            if self._families["response"] is None:
                self._families["response"] = data.response_kind
            if self._families["cost"] is None:
                self._families["cost"] = _cost_family(data)
            self._assemble(self.preprocessor.output_shape[-1])
        for name, head in self._heads.items():
            moments = data.arm_moments(name)
            if head.family == "binary" and not moments.binary:
                raise ValueError(
                    f"{name}_head='binary' needs a {name} of 0 or 1, but the data have other "
                    "values; use 'nonnegative'."
                )
            head.start_from(moments.mean, moments.second_moment, moments.variance)

    def _assemble(self, num_features: int) -> None:
        self.num_features = num_features
        if self.preprocessor is not None:
            # It runs in the input pipeline: string look-ups must not keep XLA from the step.
            for layer in self.preprocessor.layers:
                layer.supports_jit = True
        self.network = build_network(
            num_features, self.num_treatments, self.backbone, seed=self.seed
        )
        for name in ("response", "cost"):
            head = Head(self._families[name], self.num_treatments, name=f"{name}_head")
            setattr(self, f"{name}_head", head)
            self._heads[name] = head
        self.built = True

    def _require_network(self) -> keras.Model:
        if self.network is None:
            raise ValueError(
                "the model has no network yet: call fit(data), adapt(data), or pass "
                "preprocessor= (or num_features=) with response_head= and cost_head=."
            )
        return self.network

    # Forward -------------------------------------------------------------------------------

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """Predictions for raw features."""
        network = self._require_network()
        if self.preprocessor is not None:
            inputs = self.preprocessor(inputs)
        return self._predictions(network(inputs, training=training))

    def _predictions(self, raw: dict[str, Any]) -> dict[str, Any]:
        return {name: head(raw[name]) for name, head in self._heads.items()}

    # Training ------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = None,
        *,
        goal_weight: Any = 0.0,
        budget: Any = None,
        gradient: Any = None,
        jit_compile: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        """Configures training.

        Args:
          optimizer: Keras optimizer; None: Adam(1e-3).
          goal_weight: weight of the expected outcome beside the prediction losses; a number, or a
            callable of the step. 0 is the two-stage baseline.
          budget: cost per user; a number, a range (low, high) from which every step draws, or a
            callable of the step. Needed if goal_weight is not 0; with 0 it only sets where
            validation reports the goal.
          gradient: one of `tfalloc.gradients`; None: `FiniteDifference()`, every entry.
          jit_compile: whether XLA compiles the training step; "auto": yes.
          **kwargs: as `keras.Model.compile` (`run_eagerly`, `steps_per_execution`).

        Raises:
          ValueError: if the budget or goal_weight is out of range.
        """
        goal_weight = objective.check_goal_weight(goal_weight)
        budget = objective.check_budget(budget)
        if budget is None and goal_weight != 0.0:
            raise ValueError(
                f"goal_weight={goal_weight!r} needs a budget: pass budget=cost per user, or "
                "budget=(low, high)."
            )
        if kwargs.get("run_eagerly"):
            jit_compile = False
        super().compile(
            optimizer=keras.optimizers.Adam(1e-3) if optimizer is None else optimizer,
            jit_compile=True if jit_compile == "auto" else jit_compile,
            **kwargs,
        )
        self._objective = {
            "goal_weight": goal_weight,
            "budget": budget,
            "gradient": FiniteDifference() if gradient is None else gradient,
        }
        self._compile_extras = kwargs

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step: predict, differentiate Q, add the surrogate, update."""
        matrix, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        goal_weight = self._objective["goal_weight"]
        end_to_end = callable(goal_weight) or goal_weight != 0.0
        step = self.optimizer.iterations
        with tf.GradientTape() as tape:
            raw = self.network(matrix, training=True)
            losses = self._prediction_losses(raw, targets, sample_weight)
            loss = tf.add_n([*losses.values(), *self.losses])
            if end_to_end:
                predictions = self._predictions(raw)
                goal = self._goal_gradient(predictions, targets, sample_weight, step)
                weight = objective.weight_at(goal_weight, step)
                loss -= weight * objective.surrogate(
                    predictions["response"], predictions["cost"], goal
                )
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_weights
        self.optimizer.apply(tape.gradient(scaled, variables), variables)

        size = tf.shape(matrix)[0]
        for name, value in losses.items():
            self._trackers[name].update_state(value, sample_weight=size)
        total = tf.add_n(list(losses.values()))
        if end_to_end:
            # An empty matched set has no outcome: it must not turn the epoch's mean into NaN.
            known = tf.cast(tf.math.is_finite(goal.goal), tf.float32)
            value = tf.where(known > 0, goal.goal, tf.zeros_like(goal.goal))
            self._trackers["goal"].update_state(value, sample_weight=known)
            self._trackers["alpha"].update_state(goal.alpha)
            total -= weight * value
        self._trackers["loss"].update_state(total, sample_weight=size)
        shown = self._trackers if end_to_end else ("loss", "response_loss", "cost_loss")
        return {name: self._trackers[name].result() for name in shown}

    def _evaluate_batch(self, matrix: Any, targets: Any, sample_weight: Any) -> Any:
        """(predictions, losses) of a preprocessed batch, compiled once."""
        if self._forward is None:

            @tf.function(reduce_retracing=True)
            def forward(matrix: Any, targets: Any, sample_weight: Any) -> Any:
                raw = self.network(matrix, training=False)
                losses = self._prediction_losses(raw, targets, sample_weight)
                return self._predictions(raw), losses

            self._forward = forward
        return self._forward(matrix, targets, sample_weight)

    def _goal_gradient(
        self, predictions: dict[str, Any], targets: dict[str, Any], sample_weight: Any, step: Any
    ) -> Any:
        propensity = targets.get("propensity")
        if sample_weight is not None:
            share = 1.0 if propensity is None else propensity
            propensity = share / tf.cast(sample_weight, tf.float32)
        return self._objective["gradient"](
            tf.stop_gradient(predictions["response"]),
            tf.stop_gradient(predictions["cost"]),
            targets["treatment"],
            targets["response"],
            targets["cost"],
            objective.draw_budget(self._objective["budget"], self.seed, step),
            propensity=propensity,
            seed=objective.step_seed(self.seed + 1, step),
        )

    def _prediction_losses(
        self, raw: Any, targets: dict[str, Any], sample_weight: Any
    ) -> dict[str, Any]:
        """Mean prediction loss of each outcome, scalars; rows weigh `sample_weight`."""
        losses = {}
        for name, head in self._heads.items():
            errors = head.errors(raw[name], targets["treatment"], targets[name])
            if sample_weight is None:
                losses[f"{name}_loss"] = tf.reduce_mean(errors)
            else:
                weight = tf.cast(sample_weight, tf.float32)
                losses[f"{name}_loss"] = tf.reduce_sum(errors * weight) / tf.reduce_sum(weight)
        return losses

    @property
    def metrics(self) -> list[Any]:
        """Means over an epoch, reset by Keras at its start."""
        return list(self._trackers.values())

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = None,
        epochs: int = 20,
        validation_data: Any = None,
        validation_split: float = 0.2,
        early_stopping: bool | int = True,
        callbacks: Any = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains, by default with early stopping on a validation share of the rows.

        Args:
          x: `RCTData`; or a dataset of (features, targets[, sample_weight]) as `RCTData.batches`
            gives; or features, with `y` the dict of targets.
          y: {"treatment", "response", "cost"[, "propensity"]}, only with plain features.
          batch_size: rows a step; None: 10,000 (the paper's), less on small data. A dataset
            brings its own batches.
          epochs: at most this many.
          validation_data: same kinds as `x`; None: `validation_split` of the rows of `x`.
          validation_split: share of the rows kept for validation; a dataset cannot be split.
          early_stopping: stop after 5 epochs (or the number given) without a better `val_loss`,
            and keep the best weights; off without validation rows, or with an `EarlyStopping` of
            your own among `callbacks`.
          callbacks: as in Keras. `val_loss`, `val_goal`, `val_response_loss`, … can be monitored.
          shuffle: whether rows are reshuffled each epoch, by the model's seed.
          sample_weight: [rows], with plain features.
          **kwargs: as `keras.Model.fit`.

        `val_loss` is the prediction losses minus goal_weight times the goal, over the whole
        validation set.

        Raises:
          ValueError: if the data do not fit the model, before any step is taken.
        """
        if not self.compiled:
            raise ValueError("compile the model first: model.compile(goal_weight=…, budget=…).")
        if not isinstance(x, tf.data.Dataset):
            x = as_trial_data(x, y, sample_weight)
            if validation_data is None and validation_split:
                x, validation_data = x.split([1 - validation_split, validation_split], self.seed)
            if batch_size is None:
                batch_size = min(10_000, max(1, len(x) // 10))
        if self.network is None:
            self.adapt(x)
        train = as_batches(
            x,
            self.preprocessor,
            1 if batch_size is None else min(batch_size, len(x)),  # a dataset has its own batches
            shuffle=shuffle,
            seed=self.seed,
            drop_remainder=True,
        )
        callbacks = self._with_early_stopping(callbacks, validation_data, early_stopping)
        if validation_data is not None and not isinstance(validation_data, tf.data.Dataset):
            if not isinstance(validation_data, RCTData):
                validation_data = as_trial_data(*validation_data)
            validation_data = validation_data.batches(10_000)
        return super().fit(
            train,
            epochs=epochs,
            validation_data=validation_data,
            callbacks=callbacks,
            shuffle=False,  # the batches are shuffled already
            **kwargs,
        )

    def _with_early_stopping(self, callbacks: Any, validation_data: Any, wanted: bool | int) -> Any:
        if isinstance(callbacks, keras.callbacks.CallbackList):
            return callbacks
        callbacks = list(callbacks or [])
        if isinstance(callbacks, keras.callbacks.Callback):
            callbacks = [callbacks]
        own = any(isinstance(c, keras.callbacks.EarlyStopping) for c in callbacks)
        if wanted and validation_data is not None and not own:
            patience = 5 if wanted is True else int(wanted)
            callbacks.append(
                keras.callbacks.EarlyStopping(
                    "val_loss", patience=patience, mode="min", restore_best_weights=True
                )
            )
        return callbacks

    # Evaluation and prediction -------------------------------------------------------------

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = None,
        sample_weight: Any = None,
        return_dict: bool = False,
        budget: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Losses and the goal over the whole set: one exact outcome curve, not a mean of batches.

        Args:
          x: as in `fit`.
          y: as in `fit`.
          batch_size: rows a step of prediction; it does not change the result.
          sample_weight: [rows], with plain features.
          return_dict: whether to return a dict instead of a list.
          budget: cost per user; None: the one compiled, the middle of a range.
          **kwargs: accepted for Keras, which calls this for validation.

        Returns:
          loss, response_loss, cost_loss and, where there is a budget, goal (response per user at
          that budget), cost (per user at the chosen alpha), alpha, matched (rows).
        """
        self._require_network()
        if not isinstance(x, tf.data.Dataset):
            x = as_trial_data(x, y, sample_weight)
        if budget is None and self._objective.get("budget") is not None:
            budget = objective.central_budget(self._objective["budget"])
        batches = as_batches(x, self.preprocessor, batch_size or 10_000)
        logs = whole_set_outcome(self, batches, budget)
        goal_weight = self._objective.get("goal_weight", 0.0)
        logs["loss"] = logs["response_loss"] + logs["cost_loss"]
        if callable(goal_weight):
            goal_weight = float(objective.weight_at(goal_weight, self.optimizer.iterations))
        if goal_weight and np.isfinite(logs.get("goal", np.nan)):
            logs["loss"] -= goal_weight * logs["goal"]
        logs = {"loss": logs.pop("loss"), **logs}
        return logs if return_dict else list(logs.values())

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
        return self._predictions(self.network(matrix, training=False))

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
            "response_head": self._families["response"],
            "cost_head": self._families["cost"],
            "preprocessor": preprocessor,
            "num_features": None if self.network is None else self.num_features,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> AllocationModel:
        """The inverse of `get_config`."""
        config = dict(config)
        config.pop("dtype", None)
        for key in ("backbone", "preprocessor"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(config[key], custom_objects)
        return cls(**config)

    def get_compile_config(self) -> dict[str, Any]:
        """What `compile_from_config` needs; callables of the step are left out."""
        goal_weight, budget = self._objective["goal_weight"], self._objective["budget"]
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "goal_weight": 0.0 if callable(goal_weight) else goal_weight,
            "budget": None if callable(budget) else budget,
            "gradient": objective.gradient_to_config(self._objective["gradient"]),
            "jit_compile": bool(self.jit_compile),
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as before saving."""
        config = dict(config)
        config["optimizer"] = keras.saving.deserialize_keras_object(config["optimizer"])
        if config["gradient"] is not None:
            config["gradient"] = objective.gradient_from_config(config["gradient"])
        self.compile(**config)
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def build_from_config(self, config: dict[str, Any]) -> None:
        """The network is built by the constructor."""


def _cost_family(data: RCTData) -> str:
    moments = data.arm_moments("cost")
    if np.all(moments.arm_variance <= 1e-12 * np.maximum(moments.second_moment, 1e-30)):
        return "constant"
    return "binary" if moments.binary else "nonnegative"
