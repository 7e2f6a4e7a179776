"""The commit of a rollout: from one write on, these weights serve the model, for everybody who asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from serve_app.controller.bringup import Bringup, plan_key
from serve_app.controller.claims import Weights
from serve_app.controller.ledger import Ledger, Tenure
from serve_app.controller.served import show_link
from serve_app.controller.store import Store
from serve_app.engines.fingerprint import Fingerprint
from serve_app.errors import HeadroomError


class Commit:
    """`publish` tells gateways; they change over with the next table, which ends the cache of the old weights."""

    def __init__(self, *, bringup: Bringup, ledger: Ledger, store: Store, publish: Callable[[], None]) -> None:
        self._bringup = bringup
        self._ledger = ledger
        self._store = store
        self._publish = publish

    def in_force(self, model: str) -> Weights | None:
        """None: nobody serves it, or it has no checkpoint."""
        return self._bringup.state.weights.get(model)

    def commit(self, model: str, weights: Weights, words: Fingerprint | None) -> tuple[Tenure, ...]:
        """Repeated, it makes everything follow again. Returns the replicas that have other weights.

        `words` are what these weights say; None: whoever starts first is believed.

        Not to be called while another change is planned or carried out.

        Raises: HeadroomError for a model that is not served, or before there is a plan.
        """
        bringup, stored = self._bringup, self._bringup.state.stored
        settings = next((one for one in bringup.settings.models if one.id == model), None)
        if stored is None or settings is None:
            raise HeadroomError(f"The model {model!r} is not served here.", advice="See `headroom models list`.")
        every = {**bringup.state.weights, model: weights}
        slots = tuple(replace(slot, weights=weights) if slot.model == model else slot for slot in stored.slots)
        target = replace(stored, key=plan_key(bringup.settings, every), slots=slots)
        with self._store.served.together():
            self._store.served.save(settings, weights)
            bringup.save(target)
            if words is not None:
                self._store.words.committed((slot for slot in slots if slot.model == model), words)
        bringup.state.weights = every
        bringup.take_over(target)
        strays = self._ledger.reweigh(model, weights)
        show_link(model, weights.path)
        self._publish()
        return strays
