"""An auxiliary classifier, which tells the generator what its classes look like.

A discriminator learns the classes of a few hundred films slowly: it has other things to learn, from small batches of
one class each. A small classifier learns them beside it from the same films. An image costs it a twentieth of the time,
so it sees many more of them a step, and augmented. The generator follows its cross-entropy too. It is a network of its
own, as in ControlGAN (arXiv 1708.00598); AC-GAN (arXiv 1610.09585) has a head of the discriminator instead.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.classifier import Classifier, of_findings
from model.gan.layers import channels_last
from model.training import augment
from model.training.batches import by_class
from model.training.checkpoint import Groups, load_optimizer, optimizer_tensors
from model.training.distributed import Ranks

BATCH = 24  # real films a step
SIDE = 64  # larger images are averaged down to this
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-2  # of AdamW
SMOOTHING = 0.1  # of the labels: with few films of a class it would soon be sure of each, and teach nothing more
PROBABILITY = 0.8  # of each augmentation; of real films, so that few are not learnt by heart, and of synthetic ones


class AuxiliaryClassifier:
    """Learns the classes of images uint8 (N, H, H) with labels int64 (N,), every class equally often.

    Of labels (N, K), several findings of 1, 0 or -1 where it is not known, it learns each by itself.
    What is random comes from `seed`. All processes of a distributed training compute the same.
    """

    def __init__(self, images: Tensor, labels: Tensor, classes: int, seed: int, ranks: Ranks = Ranks()) -> None:
        self.images, self.classes, self.ranks = images, classes, ranks
        self.random = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Classifier(classes).to(images.device)
        channels_last(self.network)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.labels = labels
        members = by_class(labels, classes)
        self.order, self.counts = torch.cat(members), torch.tensor([len(some) for some in members])

    def step(self) -> None:
        """One update, on real films."""
        y = torch.randint(self.classes, (BATCH,), generator=self.random)
        within = (torch.rand(BATCH, generator=self.random) * self.counts[y]).long()
        chosen = self.order[(self.counts.cumsum(0) - self.counts)[y] + within]
        x = self.images[chosen.to(self.images.device)][:, None].float() / 127.5 - 1
        y = y if self.labels.dim() == 1 else self.labels[chosen]
        self.network.train().requires_grad_(True)
        loss = self._losses(x, y.to(x.device), self._drawn(BATCH)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def losses(self, images: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of each image, (B, 1, H, H) in [-1, 1] and (B,) -> (B,), with gradients by the images alone.

        Of several findings, (B, K), it is the mean of those that are known.
        In a distributed training these are the part of this process.
        """
        self.network.eval().requires_grad_(False)
        drawn = self._drawn(len(y) * self.ranks.size)
        return self._losses(images, y, augment.Augmentation(*(self.ranks.part(part) for part in vars(drawn).values())))

    def state(self) -> Groups:
        """What decides about the steps to come."""
        return {
            "auxiliary": self.network.state_dict() | {"random": self.random.get_state()},
            "optimizer_auxiliary": optimizer_tensors(self.optimizer),
        }

    def load_state(self, groups: Groups) -> None:
        """Go on from `state`."""
        weights = dict(groups["auxiliary"])
        self.random.set_state(weights.pop("random"))
        self.network.load_state_dict(weights)
        load_optimizer(self.optimizer, groups["optimizer_auxiliary"])

    def _drawn(self, batch: int) -> augment.Augmentation:
        return augment.draw(batch, PROBABILITY, min(self.images.shape[-1], SIDE), self.random, holes=False)

    def _losses(self, images: Tensor, y: Tensor, drawn: augment.Augmentation) -> Tensor:
        x = F.adaptive_avg_pool2d(images, SIDE) if images.shape[-1] > SIDE else images
        (x,) = augment.Augmentation(*(part.to(x.device) for part in vars(drawn).values()))([x])
        if y.dim() == 2:
            return of_findings(self.network((x + 1) / 2), y, SMOOTHING)
        return F.cross_entropy(self.network((x + 1) / 2), y, reduction="none", label_smoothing=SMOOTHING)
