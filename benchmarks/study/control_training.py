"""The positive controls' data, losses and training: what one run comes to.

Sources: `controls` names the papers. Everything is written from their text.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness
from torch import Tensor, nn

from tsloss_fast import TSLoss, edge_lengths, h0_persistence

ARMS = ("topological", "plain", "random paths")


@dataclass(frozen=True)
class Control:
    """What is run: every arm with every seed and learning rate."""

    finding: str
    seeds: int
    rates: list[float]
    steps: int
    batch: int
    weight: float


DENSIFIED = "densified digits"
LEARNS = "a classifier learns more from few samples"
KEEPS = "codes keep the density of the data better, and the reconstruction is hardly worse"
CONTROLS = {
    DENSIFIED: Control(LEARNS, 24, [0.01, 0.03, 0.1], 300, 16, 0.1),
    "autoencoder of spheres": Control(KEEPS, 16, [0.003, 0.01], 1200, 32, 1.0),
    "autoencoder of digits": Control(KEEPS, 16, [0.003, 0.01], 920, 50, 1.0),
}


def densification(clouds: Tensor, beta: float, edges: Tensor | None = None) -> Tensor:
    """Return the mean over clouds (C, N, D) of Σ|length - β|, by default over their deaths."""
    if edges is None:
        return TSLoss("total", eta=beta)(clouds)
    lengths = edge_lengths(clouds, edges.expand(len(clouds), -1, -1))
    return (lengths - beta).abs().sum(-1).mean()


def mismatch(points: Tensor, codes: Tensor, edges: Tensor | None = None) -> Tensor:
    """Return half the sum of squares of what edges differ in length between points and codes, by
    default the edges of the minimum spanning trees of both. One in both trees counts twice."""
    if edges is None:
        edges = torch.cat([h0_persistence(each.detach()).edges for each in (points, codes)])
    return (edge_lengths(points, edges) - edge_lengths(codes, edges)).square().sum() / 2


def density_divergence(points: np.ndarray, codes: np.ndarray, sigma: float) -> float:
    """Return KL_σ of Moor et al.: the densities are sums of exp(-distance² / σ) over all points,
    where the largest distance of either space is 1."""
    distances = [squareform(pdist(each)) for each in (points, codes)]
    sums = [np.exp(-((each / each.max()) ** 2) / sigma).sum(1) for each in distances]
    first, second = (each / each.sum() for each in sums)
    return float((first * np.log(first / second)).sum())


def random_path(count: int, generator: torch.Generator) -> Tensor:
    """Return the edges (count - 1, 2) of a path through all points in random order."""
    order = torch.randperm(count, generator=generator)
    return torch.stack((order[:-1], order[1:]), -1)


def spheres(generator: np.random.Generator, count: int = 8, size: int = 60) -> np.ndarray:
    """Return the data set SPHERES of Moor et al., smaller: spheres of radius 5 in 101 dimensions
    with random centres, and one of radius 25 around them that has as many points as all others."""
    points = generator.normal(size=(2 * count * size, 101))
    points *= 5 / np.linalg.norm(points, axis=1, keepdims=True)
    inner, outer = np.split(points, 2)
    centres = generator.normal(scale=10 / np.sqrt(101), size=(count, 101))
    return np.concatenate((inner + centres.repeat(size, 0), 5 * outer))


def layers(*widths: int) -> nn.Sequential:
    """Return linear layers; all but the last have batch normalisation and ReLU."""
    pairs = itertools.pairwise(widths[:-1])
    inner = [part for a, b in pairs for part in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
    return nn.Sequential(*inner, nn.Linear(*widths[-2:]))


def train_classifier(control: Control, arm: str, seed: int, lr: float) -> dict[str, float]:
    """Learn from 25 samples of each class, in sub-batches of a class each; test on the rest."""
    images, labels = map(torch.tensor, load_digits(return_X_y=True))
    images = images.float() / 16
    shared, own = (torch.Generator().manual_seed(seed) for _ in range(2))
    torch.manual_seed(seed)
    inner, outer = layers(64, 128, 64), nn.Linear(64, 10)
    parameters = [*inner.parameters(), *outer.parameters()]
    optimizer = torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, control.steps)
    order, size, beta = torch.randperm(len(labels), generator=shared), control.batch, 1.0
    classes = [order[labels[order] == label] for label in range(10)]
    targets = torch.arange(10).repeat_interleave(size)
    for _ in range(control.steps):
        drawn = [each[torch.randperm(25, generator=shared)[:size]] for each in classes]
        inside = inner(images[torch.cat(drawn)])
        loss = nn.functional.cross_entropy(outer(inside), targets)
        if arm != "plain":
            edges = random_path(size, own) if arm == "random paths" else None
            loss = loss + control.weight * densification(inside.view(10, size, -1), beta, edges)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    inner.eval()
    with torch.no_grad():
        tested = [inner(images[each[25:]]) for each in classes]
        right = torch.cat([outer(z).argmax(1) == label for label, z in enumerate(tested)])
        clouds = torch.cat([z[: len(z) // size * size].view(-1, size, 64) for z in tested])
        deaths = h0_persistence(clouds).deaths
    return {
        "accuracy": right.double().mean().item(),
        "deviation": (deaths / beta - 1).abs().mean().item(),
        "variation": (deaths.std(1) / deaths.mean(1)).mean().item(),
    }


def train_autoencoder(
    control: Control, arm: str, seed: int, lr: float, data: np.ndarray
) -> dict[str, float]:
    """Learn codes in two dimensions from two thirds of the points; test on the rest."""
    data = np.random.default_rng(seed).permutation(data - data.mean(0)) / pdist(data).max()
    test, train = torch.tensor(data, dtype=torch.float32).tensor_split([len(data) // 3])
    shared, own = (torch.Generator().manual_seed(seed) for _ in range(2))
    torch.manual_seed(seed)
    encoder, decoder = layers(data.shape[1], 32, 32, 2), layers(2, 32, 32, data.shape[1])
    both = nn.Sequential(encoder, decoder)
    optimizer = torch.optim.Adam(both.parameters(), lr, weight_decay=1e-5)
    drawn: list[Tensor] = []
    for _ in range(control.steps):
        if not drawn:
            order = torch.randperm(len(train), generator=shared)
            drawn = list(order[: len(order) // control.batch * control.batch].split(control.batch))
        points = train[drawn.pop()]
        codes = encoder(points)
        loss = (decoder(codes) - points).square().sum(1).mean()
        if arm != "plain":
            paths = torch.cat([random_path(control.batch, own) for _ in range(2)])
            edges = paths if arm == "random paths" else None
            loss = loss + control.weight * mismatch(points, codes, edges) / control.batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    both.eval()
    with torch.no_grad():
        codes = encoder(test)
        error = (decoder(codes) - test).square().sum() / test.square().sum()
        term = mismatch(test, codes) / len(test)
    points, codes = test.double().numpy(), codes.double().numpy()
    return {
        "kl_0.1": density_divergence(points, codes, 0.1),
        "kl_0.01": density_divergence(points, codes, 0.01),
        "trustworthiness": float(trustworthiness(points, codes, n_neighbors=10)),
        "correlation": float(spearmanr(pdist(points), pdist(codes)).statistic),
        "reconstruction": error.item(),
        "mismatch": term.item(),
    }


def train(control: Control, name: str, arm: str, seed: int, lr: float) -> dict[str, float]:
    """Return the outcomes of one run, which depend on nothing but the arguments."""
    if name == DENSIFIED:
        found = train_classifier(control, arm, seed, lr)
    else:
        of_digits = name == "autoencoder of digits"
        data = load_digits().data if of_digits else spheres(np.random.default_rng([seed, 1]))
        found = train_autoencoder(control, arm, seed, lr, data)
    return {measure: float(f"{value:.6g}") for measure, value in found.items()}
