"""`TrainStep`: one training step through the allocation of a budget.

network -> raw outputs -> predictions (v, c) -> gradients of the expected outcome
                       -> prediction losses  -> surrogate, scaled -> optimizer
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfalloc.gradients import Gradient
from tfalloc.models import _keras, replicas
from tfalloc.models.cross_fitting import CrossFitted
from tfalloc.models.objective import Objective, RunningNorms, surrogate
from tfalloc.models.resume import described
from tfalloc.models.schedules import draw_budget, step_seed, weight_at

METRICS = ("loss", "response_loss", "cost_loss")
GOAL_METRICS = ("goal", "alpha", "matched", "matched_responders")


@_keras.built_by_adapt
class TrainStep(keras.Model):
    """Compiles an objective and takes one training step.

    A subclass sets `network` (a Keras model from a feature matrix to raw outputs) and `seed`, and
    defines `_choose_losses`, `_predictions` and `_prediction_losses`.
    """

    network: Any
    seed: int

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._trackers = {name: keras.metrics.Mean(name=name) for name in (*METRICS, *GOAL_METRICS)}
        self._objective: Objective | None = None
        self._through_allocation = False
        self._outcome_model: CrossFitted | None = None
        self._forward: Any = None

    def compile(
        self,
        optimizer: Any = None,
        *,
        goal_weight: Any = 0.0,
        goal_scale: str = "normalized",
        budget: Any = None,
        gradient: Any = None,
        response_loss: str | None = None,
        cost_loss: str | None = None,
        validation_budgets: Any = None,
        weight_decay: float | None = None,
        jit_compile: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        """Configures training.

        Args:
          optimizer: Keras optimizer; None: Adam(1e-3, weight_decay=weight_decay).
          goal_weight: weight of the expected outcome beside the prediction losses; a number, or a
            callable of the step (`WarmUp`, a Keras LearningRateSchedule). 0 is the two-stage
            baseline.
          goal_scale: what a goal_weight of 1 means. "normalized": the goal pulls at the network's
            raw outputs as hard as the prediction losses do, by running averages of both gradients'
            norms; "paper": Eq. 11 as written, where that depends on gradient, batch size and data.
          budget: cost per user; a number, a range (low, high) from which every step draws, or a
            callable of the step. Needed if goal_weight is not 0; with 0 it only sets where
            validation reports the goal.
          gradient: one of `tfalloc.gradients`; a list of them, whose sum counts, each normalised
            by itself; or a list of (weight, gradient). None: `FiniteDifference()`, every entry.
            Training reports goal and alpha of the first.
          response_loss: for a "nonnegative" head "squared_error" or "poisson"; for "hurdle" "gamma"
            (its minimum is the mean, however the positive values are distributed) or "lognormal";
            None: the first of these, cross entropy if binary, squared error if real.
          cost_loss: likewise.
          validation_budgets: cost per user, one or several, at which validation judges; None: the
            budget, five points of a range, or what a callable says at step 0.
          weight_decay: decoupled weight decay of the default optimizer.
          jit_compile: whether XLA compiles the training step; "auto": yes. Over several replicas,
            only the gradients of the goal: XLA compiles for one device.
          **kwargs: as `keras.Model.compile` (`run_eagerly`, `steps_per_execution`).

        Raises:
          ValueError: if an argument is out of range, or does not go with another or with a head.
        """
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{name}={kwargs[name]!r}: the losses and metrics of this model are its own; "
                    "choose by response_loss=, cost_loss=, goal_weight= and validation_budgets=."
                )
        objective = Objective.checked(goal_weight, goal_scale, budget, gradient, validation_budgets)
        self._choose_losses(response_loss=response_loss, cost_loss=cost_loss)
        if optimizer is not None and weight_decay is not None:
            raise ValueError(
                f"weight_decay={weight_decay!r} belongs to the default optimizer; give it to your "
                "own: keras.optimizers.AdamW(weight_decay=…)."
            )
        self._xla = bool(jit_compile) and not kwargs.get("run_eagerly")
        with self.distribute_strategy.scope():
            if optimizer is None:
                optimizer = keras.optimizers.Adam(1e-3, weight_decay=weight_decay)
            self._norms = RunningNorms(len(objective.gradients))
            together = replicas.count() == 1
            replicas.check_optimizer(optimizer)
        super().compile(optimizer=optimizer, jit_compile=self._xla and together, **kwargs)
        self._objective = objective
        self._through_allocation = objective.through_allocation
        # Now, because callbacks may change the learning rate.
        self.compile_settings = described(
            {
                "optimizer": optimizer,
                "response_loss": response_loss,
                "cost_loss": cost_loss,
                **vars(objective),
                "jit_compile": self.jit_compile,
                **kwargs,
            }
        )
        self._estimators = [
            each if together or not self._xla else tf.function(each, jit_compile=True)
            for _, each in objective.gradients
        ]
        self._forward = None

    def _check_trainable(self) -> None:
        """Refuses weights that were frozen, or no longer are, since the optimizer was built.

        The step compiled for it would go on training the weights as they were.
        """
        known = _keras.trained_by(self.optimizer)
        if known and known != {id(each) for each in self.trainable_variables}:
            raise ValueError(
                f"the optimizer knows {len(known)} weights, but "
                f"{len(self.trainable_variables)} are to be trained: layers were frozen, or no "
                "longer are, since compile; call compile again."
            )

    def train_through_allocation(self, wanted: bool) -> None:
        """Whether the training step differentiates the goal, or only the prediction losses."""
        if wanted != self._through_allocation:
            self._through_allocation = wanted
            self.make_train_function(force=True)

    def _use_outcome_model(self, outcome_model: CrossFitted | None) -> None:
        """Of `doubly_robust`; None: goals are differentiated without."""
        if outcome_model is not self._outcome_model:
            self._outcome_model = outcome_model
            self.make_train_function(force=True)

    # One step ------------------------------------------------------------------------------

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step: predict, differentiate Q, add the surrogate, update."""
        matrix, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if self._outcome_model is not None and self._through_allocation:
            targets = {**targets, "expected": self._outcome_model(matrix)}
        # Keras 3.6 does not count steps of the optimizer that scales losses, only the inner one's.
        counter: Any = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        step = tf.convert_to_tensor(counter.iterations)
        with tf.GradientTape(persistent=self._through_allocation) as tape:
            raw = self.network(matrix, training=True)
            # In float32 from here: the goal's gradient has entries that float16 would round to 0.
            raw = tf.nest.map_structure(lambda x: tf.cast(x, tf.float32), raw)
            losses = self._prediction_losses(raw, targets, sample_weight)
            predicting = tf.add_n(list(losses.values()))
            penalties = [tf.cast(x, tf.float32) / replicas.count() for x in self.losses]
            loss = tf.add_n([predicting, *penalties])
            if self._through_allocation:
                predictions = self._predictions(raw)
                goals = self._goal_gradients(predictions, targets, sample_weight, step)
                v, c = predictions["response"], predictions["cost"]
                pulls = [surrogate(v, c, goal) for goal in goals]
                with tape.stop_recording():
                    shares = self._shares(tape, predicting, pulls, tf.nest.flatten(raw), step)
                loss -= tf.reduce_sum(shares * tf.stack(pulls))
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_weights
        self.optimizer.apply(tape.gradient(scaled, variables), variables)

        size = replicas.total(tf.shape(matrix)[0])
        for name, value in replicas.total({"loss": predicting, **losses}).items():
            self._trackers[name].update_state(value, sample_weight=size)
        shown: tuple[str, ...] = METRICS
        if self._through_allocation:
            shown += GOAL_METRICS
            self._track_goal(goals[0], predictions, targets)
        elif self._compiled_objective().through_allocation:
            # The two-stage phase of a warm start: loggers write the columns of the first epoch.
            shown += GOAL_METRICS
            for name in GOAL_METRICS:
                self._trackers[name].update_state(float("nan"))
        return {name: self._trackers[name].result() for name in shown}

    def _goal_gradients(
        self, predictions: dict[str, Any], targets: dict[str, Any], sample_weight: Any, step: Any
    ) -> list[Any]:
        rows = [
            tf.stop_gradient(predictions["response"]),
            tf.stop_gradient(predictions["cost"]),
            *(targets[name] for name in ("treatment", "response", "cost")),
        ]
        propensity = targets.get("propensity")
        if sample_weight is not None:
            share = 1.0 if propensity is None else tf.cast(propensity, tf.float32)
            propensity = share / tf.cast(sample_weight, tf.float32)
        expected = targets.get("expected", (None, None))
        (*batch, propensity, response, cost), own = replicas.gather([*rows, propensity, *expected])
        objective = self._compiled_objective()
        budget = draw_budget(objective.budget, self.seed, step)
        goals = [
            estimator(
                *batch,
                budget,
                propensity=propensity,
                seed=step_seed(self.seed + 1 + k, step),
                **({} if response is None else _extra(gradient, (response, cost))),
            )
            for k, ((_, gradient), estimator) in enumerate(
                zip(objective.gradients, self._estimators, strict=True)
            )
        ]
        return [
            goal._replace(d_response=own(goal.d_response), d_cost=own(goal.d_cost))
            for goal in goals
        ]

    def _shares(self, tape: Any, predicting: Any, pulls: Any, raw: Any, step: Any) -> Any:
        """What every surrogate is multiplied by, [number of gradients]."""
        objective = self._compiled_objective()
        shares = tf.constant([weight for weight, _ in objective.gradients], tf.float32)
        if objective.goal_scale == "normalized":
            zero = tf.UnconnectedGradients.ZERO  # costs known in advance have no gradient
            norms = self._norms
            norms.update_state(
                tape.gradient(predicting, raw, unconnected_gradients=zero),
                [tape.gradient(pull, raw, unconnected_gradients=zero) for pull in pulls],
            )
            shares *= norms.result()
        return shares * weight_at(objective.goal_weight, step)

    def _track_goal(self, goal: Any, predictions: Any, targets: dict[str, Any]) -> None:
        # An empty matched set has no outcome: it must not turn the epoch's mean into NaN.
        known = tf.math.is_finite(goal.goal)
        value = tf.where(known, goal.goal, tf.zeros_like(goal.goal))
        self._trackers["goal"].update_state(value, sample_weight=tf.cast(known, tf.float32))
        self._trackers["alpha"].update_state(goal.alpha)
        assigned = tf.argmax(
            predictions["response"] - goal.alpha * predictions["cost"], 1, tf.int32
        )
        matched = known & (assigned == tf.cast(targets["treatment"], tf.int32))
        responded = matched & (tf.cast(targets["response"], tf.float32) != 0.0)
        counts = {"matched": matched, "matched_responders": responded}
        counts = {name: tf.reduce_sum(tf.cast(x, tf.float32)) for name, x in counts.items()}
        for name, number in replicas.total(counts).items():
            self._trackers[name].update_state(number)

    @property
    def metrics(self) -> list[Any]:
        """Means over an epoch, reset by Keras at its start."""
        return list(self._trackers.values())

    @property
    def training_state_metrics(self) -> list[Any]:
        """Metrics whose variables training goes on from: those of the epoch, and the norms."""
        return [*self.metrics, self._norms]

    def _compiled_objective(self) -> Objective:
        if self._objective is None:
            raise ValueError("compile the model first: model.compile(goal_weight=…, budget=…).")
        return self._objective

    def make_train_function(self, force: bool = False) -> Any:
        """Keras' own, or one that runs a step on every replica."""
        if self.distribute_strategy.num_replicas_in_sync == 1:
            return super().make_train_function(force)
        if force or not self.train_function:  # type: ignore[has-type]
            self.train_function = replicas.train_function(self)
        return self.train_function

    def _predictions(self, raw: dict[str, Any]) -> dict[str, Any]:
        """{"response", "cost"}, each [batch, K], from the network's raw outputs."""
        raise NotImplementedError

    def _choose_losses(self, **outcome_losses: str | None) -> None:
        """Takes response_loss and cost_loss, or refuses them."""
        raise NotImplementedError

    def _prediction_losses(
        self, raw: Any, targets: dict[str, Any], sample_weight: Any
    ) -> dict[str, Any]:
        """{"response_loss", "cost_loss"}, scalars, from the network's raw outputs.

        Each is this replica's share of the mean over the global batch (`replicas.mean`).
        """
        raise NotImplementedError

    # Storing -------------------------------------------------------------------------------

    def get_compile_config(self) -> dict[str, Any]:
        """What `compile_from_config` needs; functions without a registered name are left out."""
        if self.built and not self.optimizer.built:
            # Loading builds it: an untrained model must have the same variables to store.
            self.optimizer.build(self.trainable_variables)
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            **self._compiled_objective().to_config(),
            "jit_compile": self._xla,
            "run_eagerly": self.run_eagerly,
            "steps_per_execution": self.steps_per_execution,
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as before saving."""
        config = Objective.arguments_from_config(config)
        config["optimizer"] = keras.saving.deserialize_keras_object(config["optimizer"])
        self.compile(**config)
        if self.built:
            self.optimizer.build(self.trainable_variables)


def _extra(gradient: Any, outcome_model: Any) -> dict[str, Any]:
    return gradient.extra(outcome_model) if isinstance(gradient, Gradient) else {}
