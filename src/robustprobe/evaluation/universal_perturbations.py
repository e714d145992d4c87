"""Universal perturbations: made once per encoder, task and spec on training images, and kept in the cache."""

import hashlib
from collections.abc import Callable, Mapping
from typing import final

from torch import Tensor

from robustprobe.attacks import BATCH, TRAIN_IMAGES, TrainBatches, UniversalAttack
from robustprobe.core.fingerprints import code_digest, fingerprint
from robustprobe.datasets import Dataset
from robustprobe.probing.cache import load_weights, save_weights

NAME = "perturbation"


@final
class UniversalPerturbations:
    """The perturbations of one encoder with its heads, loaded or made on first use.

    They are kept in memory, so that all images of a run meet the same one, and in the cache under a fingerprint of
    weights, heads, training images, spec, precision and code, with how many images and epochs made them.

    Args:
        encoder: digest of its weights.
        heads: fingerprints of its heads, by task.
        train: the images that heads are fitted on too; no test image is among them.
    """

    def __init__(
        self, encoder: str, heads: Mapping[str, str], train: Dataset, precision: str = "fp32", code: str = ""
    ) -> None:
        self.encoder, self.heads, self.train = encoder, heads, train
        self.precision, self.code = precision, code
        self.known: dict[str, Tensor] = {}

    def positions(self, seed: int) -> list[int]:
        """Places of the training images that a perturbation is made on: those whose ids come first by their hash."""

        def rank(place: int) -> bytes:
            return hashlib.sha256(f"{seed}\0{self.train.kept_ids[place]}".encode()).digest()

        return sorted(range(len(self.train)), key=rank)[:TRAIN_IMAGES]

    def of(self, attack: UniversalAttack, target_task: str, batches: Callable[[list[int]], TrainBatches]) -> Tensor:
        """The perturbation (3, H, W) of an attack.

        Args:
            target_task: the task whose model is attacked; empty for none.
            batches: the training images at some places, in batches.
        """
        self.code = self.code or code_digest()
        spec, places = attack.spec, self.positions(attack.spec.seed)
        parts = [self.encoder, self.heads.get(target_task, ""), self.train.digest(), target_task]
        key = fingerprint(["universal", *parts, spec.model_dump(mode="json"), self.precision, self.code])
        if key not in self.known:
            stored = load_weights(key)
            if stored is None or NAME not in stored[0]:
                made = attack.made_on(batches(places))
                epochs = spec.steps * BATCH / max(1, len(places))
                facts = {"train": self.train.digest(), "images": len(places), "epochs": epochs}
                save_weights(key, {NAME: made}, facts)
                stored = ({NAME: made}, facts)
            self.known[key] = stored[0][NAME]
        return self.known[key]
