"""Real minibatches: balanced between the classes, at every scale."""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.gan.layers import GROUP


def by_class(labels: Tensor, classes: int) -> list[Tensor]:
    """Places of each class's images, int64, rising; `labels` (N,), or of several findings (N, K), 1 where there."""
    there = labels[:, None] == torch.arange(classes, device=labels.device) if labels.dim() == 1 else labels == 1
    return [torch.nonzero(there[:, label]).flatten() for label in range(classes)]


class BalancedSampler:
    """Real minibatches in which every class is equally frequent; within a class no image repeats before all
    have been shown. A rare class so repeats its images. Of several findings one is picked, each as often, and then an
    image that has it, whatever else that has.

    Classes come in runs of GROUP, so that each minibatch standard deviation is taken within one class: mixed
    with another class, a class whose images are all alike would still look varied, and so collapse.
    """

    def __init__(self, labels: Tensor, classes: int, generator: torch.Generator) -> None:
        self.labels = labels
        self.members = by_class(labels, classes)
        if empty := [label for label, members in enumerate(self.members) if len(members) == 0]:
            raise ValueError(f"no images of class {empty[0]} to train on")
        self.generator = generator
        self.decks = [torch.empty(0, dtype=torch.int64) for _ in self.members]
        self.turn = torch.empty(0, dtype=torch.int64)

    def next(self, batch: int) -> tuple[Tensor, Tensor]:
        """Indices of images and their labels, (batch,) int64 each, on the CPU; of several findings (batch, K)."""
        while len(self.turn) < batch:
            order = torch.randperm(len(self.members), generator=self.generator)
            self.turn = torch.cat([self.turn, order.repeat_interleave(GROUP)])
        labels, self.turn = self.turn[:batch], self.turn[batch:]
        indices = torch.empty_like(labels)
        for label in labels.unique().tolist():
            here = labels == label
            indices[here] = self._deal(label, int(here.sum()))
        return indices, labels if self.labels.dim() == 1 else self.labels[indices]

    def _deal(self, label: int, count: int) -> Tensor:
        deck, members = self.decks[label], self.members[label]
        while len(deck) < count:
            shuffled = members[torch.randperm(len(members), generator=self.generator)]
            deck = torch.cat([deck, shuffled])
        self.decks[label] = deck[count:]
        return deck[:count]

    def state(self) -> dict[str, Tensor]:
        """What decides about the batches to come."""
        decks = {f"deck.{label}": deck for label, deck in enumerate(self.decks)}
        return {"turn": self.turn, "random": self.generator.get_state(), **decks}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.turn = state["turn"]
        self.generator.set_state(state["random"])
        self.decks = [state[f"deck.{label}"] for label in range(len(self.decks))]


def pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """(B, 1, R, R) -> the image at every scale by average pooling, smallest first."""
    scales = [images]
    for _ in range(levels - 1):
        scales.insert(0, F.avg_pool2d(scales[0], 2))
    return scales
