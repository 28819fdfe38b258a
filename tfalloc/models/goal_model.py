"""`GoalModel`: how a model is fitted and judged through the allocation of a budget."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfalloc.data import RCTData
from tfalloc.gradients import Gradient
from tfalloc.models import phases, replicas, resume
from tfalloc.models.cross_fitting import CrossFitted, cross_fit
from tfalloc.models.matrix_batches import as_batches, as_trial_data
from tfalloc.models.schedules import check_budgets
from tfalloc.models.train_step import TrainStep
from tfalloc.models.whole_set import whole_set_outcome


class GoalModel(TrainStep):
    """Fits and evaluates; a subclass brings the network, predictions and losses.

    Beside what `TrainStep` asks for, a subclass sets `preprocessor` and defines `adapt`, `_adapted`
    and `two_stage_copy`.
    """

    preprocessor: Any

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.goal_influence: Any = None  # of each row last evaluated, see `whole_set.Judged`

    # Fit -----------------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = None,
        epochs: int = 20,
        validation_data: Any = None,
        validation_split: float = 0.2,
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
          validation_split: share of the rows kept for validation; a dataset cannot be split.
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
          sample_weight: [rows], with plain features.
          initial_epoch: as in Keras.
          resume_from: directory (or `Checkpoint`, which says how often) that keeps the state of
            training. A run that was killed, at whatever moment, and is started again by the same
            calls goes on from there and ends with the weights and the History that it would have
            had; a finished one only gets these back. Other callbacks are restored too: by their
            `get_state()` and `set_state(state)` if they have them, else their attributes that are
            numbers, arrays or containers of these. A dataset of your own goes on with the batches
            after those taken in its epoch, read and thrown away: the result is the same if its
            order is the same in every process and epoch.
          **kwargs: as `keras.Model.fit`.

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
        own = not isinstance(x, tf.data.Dataset)
        if own:
            if batch_size is not None and batch_size < 1:
                raise ValueError(f"batch_size={batch_size!r}: expected at least 1, or None.")
            if not 0 <= validation_split < 1:
                raise ValueError(
                    f"validation_split={validation_split!r}: expected a share of the rows, from 0 "
                    "to less than 1."
                )
            x = as_trial_data(x, y, sample_weight)
            if validation_data is None and validation_split:
                x, validation_data = x.split([1 - validation_split, validation_split], self.seed)
            if batch_size is None:
                batch_size = min(10_000, max(1, len(x) // 10))
        callbacks = phases.plan(
            callbacks,
            through_allocation=objective.through_allocation,
            warm_start=warm_start,
            epochs=epochs - initial_epoch,
            early_stopping=early_stopping,
            monitor=monitor,
            validated=validation_data is not None,
            judged=bool(objective.validation_budgets),
            judge=lambda: self._validation_logs(validation_data),
        )
        if warm_start == phases.GIVEN and not self._adapted:
            raise ValueError(
                f"warm_start={phases.GIVEN!r} starts from weights that the model has, and it has "
                "none yet: fit, load or imitate first, or pass warm_start=True."
            )
        if not self._adapted:
            self.adapt(x)
        self._check_trainable()
        rows = min(batch_size or 1, len(x)) if own else 1  # a dataset has its own batches
        if validation_data is not None and not isinstance(
            validation_data, (RCTData, tf.data.Dataset)
        ):
            validation_data = as_trial_data(*validation_data)
        settings = {
            "batch_size": batch_size,
            "epochs": epochs,
            "warm_start": warm_start,
            "doubly_robust": doubly_robust,
            "early_stopping": early_stopping,
            "monitor": monitor,
            "shuffle": shuffle,
            "initial_epoch": initial_epoch,
            **{name: value for name, value in kwargs.items() if name != "verbose"},
        }
        num_phases = 2 if warm_start is True else 1
        last_epoch = initial_epoch + num_phases * (epochs - initial_epoch)
        whole = len(x) // rows if own else max(int(x.cardinality()), 0)  # batches of an epoch
        if own:
            kwargs["steps_per_epoch"] = kwargs.get("steps_per_epoch") or whole
        first_epoch, taken = initial_epoch, 0
        if resume_from is not None:
            settings = {
                "model": self._model_settings(),
                "compile": self._compile_settings,
                "fit": settings,
                "data": x,
                "validation_data": validation_data,
            }
            checkpoint, saved = resume.open_run(resume_from, self, settings)
            callbacks = resume.ResumableCallbacks(
                callbacks,
                self,
                checkpoint,
                saved,
                consume=not own,
                epochs=last_epoch,
                steps=kwargs.get("steps_per_epoch") or whole or None,
                verbose=kwargs.setdefault("verbose", "auto"),
            )
            if saved and saved["finished"]:
                self.history.on_train_begin()
                resume.restore(self, [self.history], saved)
                return self.history
            if saved:
                first_epoch, taken = saved["epoch"], saved["total_steps"] * self.steps_per_execution
                if kwargs["verbose"]:
                    print(f"resuming at epoch {first_epoch + 1}, step {saved['steps']}")
        order: dict[str, Any] = {}
        stream: dict[str, Any] = {}
        if own:
            epoch, batch = divmod(taken, whole)
            order = {"shuffle": shuffle, "seed": self.seed, "drop_remainder": True}
            stream = {**order, "repeat": True, "start": (initial_epoch + epoch, batch)}
        outcome_model = None
        if doubly_robust:
            # Not kept: a run that goes on trains the same models of outcomes again.
            once = as_batches(x, self.preprocessor, rows, **order)
            outcome_model = self._cross_fit(once, validation_data, epochs)
        if outcome_model is not self._outcome_model:
            self._outcome_model = outcome_model
            self.make_train_function(force=True)
        train = as_batches(x, self.preprocessor, rows, **stream)
        valid = validation_data
        if isinstance(valid, RCTData):
            valid = valid.batches(10_000)
        try:
            with self.distribute_strategy.scope():
                return super().fit(
                    replicas.by_rows(train),
                    epochs=last_epoch,
                    initial_epoch=first_epoch,
                    validation_data=valid,
                    callbacks=callbacks,
                    shuffle=False,  # the batches are shuffled already
                    **kwargs,
                )
        except tf.errors.OpError as error:
            for data in (x, validation_data):
                if isinstance(data, RCTData) and data.failure is not None:
                    raise data.failure from error
            raise
        finally:
            self.train_through_allocation(objective.through_allocation)

    def _validation_logs(self, validation_data: Any) -> dict[str, float]:
        """What an epoch that ended with these weights would log of the validation rows."""
        logs = self.evaluate(validation_data, return_dict=True)
        return {f"val_{name}": value for name, value in logs.items()}

    def _cross_fit(self, train: Any, validation_data: Any, epochs: int) -> CrossFitted:
        objective = self._compiled_objective()
        used = any(
            isinstance(gradient, Gradient) and type(gradient).extra is not Gradient.extra
            for _, gradient in objective.gradients
        )
        if not (objective.through_allocation and used):
            raise ValueError(
                "doubly_robust=True needs a goal_weight above 0 and a gradient that takes a model "
                "of outcomes: compile with gradients.Smoothed() or gradients.Integrated()."
            )
        judged = None
        if validation_data is not None:
            judged = as_batches(validation_data, self.preprocessor, 10_000)
        with self.distribute_strategy.scope():
            return cross_fit(self, train, epochs=epochs, validation_data=judged)

    def _model_settings(self) -> dict[str, Any]:
        """What was asked of the network; its preprocessing follows from the data."""
        left_out = ("name", "preprocessor", "dtype")
        config = {name: x for name, x in self.get_config().items() if name not in left_out}
        return {**config, "dtype": self.dtype_policy.name}

    @property
    def _adapted(self) -> bool:
        raise NotImplementedError

    def two_stage_copy(self, seed: int) -> GoalModel:
        """An untrained model of the same shape, compiled with goal_weight 0, on the matrix."""
        raise NotImplementedError

    def adapt(self, data: Any) -> None:
        """Fits what is not trained by steps, and builds the network."""
        raise NotImplementedError

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
        **kwargs: Any,
    ) -> Any:
        """Losses and the goal over the whole set: exact outcome curves, not a mean of batches.

        Args:
          x: as in `fit`.
          y: as in `fit`.
          batch_size: rows a step of prediction; it does not change the result.
          sample_weight: [rows], with plain features.
          return_dict: whether to return a dict instead of a list.
          budget: cost per user, one or several; None: the validation budgets compiled.
          **kwargs: accepted for Keras, which calls this for validation.

        Returns:
          loss (the prediction losses), response_loss, cost_loss and, where there is a budget:
          goal (response per user at that budget), cost (per user at the chosen alpha), alpha and
          matched (rows), means over budgets if there are several, and then also the goal at each,
          "goal@0.04". Where these rows do not show a price that keeps a budget, its goal counts as
          the mean response under the cheapest arm, and cost and alpha are NaN.

        Raises:
          ValueError: if the model has no network yet, the set is empty, or a budget is negative or
            not finite.
        """
        self._require_network()
        if not isinstance(x, tf.data.Dataset):
            x = as_trial_data(x, y, sample_weight)
        if budget is not None:
            budgets = check_budgets(budget)
        else:
            budgets = self._objective.validation_budgets if self._objective else ()
        batches = as_batches(x, self.preprocessor, batch_size or 10_000)
        logs, self.goal_influence = whole_set_outcome(self, batches, budgets)
        return logs if return_dict else list(logs.values())

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

    def _require_network(self) -> keras.Model:
        raise NotImplementedError
