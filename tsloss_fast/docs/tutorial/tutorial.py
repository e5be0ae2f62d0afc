"""
Tutorial
========

From a point cloud to the record of a training. Everything here is one script,
``tutorial.py`` beside the sources of these pages; it needs the extra ``analysis``, no network, and
about a minute. What it prints stands below each part as it was printed when this page was built.

A cloud and its barcode
-----------------------

Three groups of points in the plane. As a scale grows from 0, points closer than it are joined: the
number of connected components falls from the number of points to 1. Each fall is the *death* of a
component, at the length of the edge that joined it: its *critical edge*.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import tsloss_fast
from tsloss_fast import TSLoss, barcode, h0_persistence

torch.manual_seed(0)
centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [2.0, 5.0]], dtype=torch.float64)
points = (centres.repeat(5, 1) + 0.5 * torch.randn(15, 2, dtype=torch.float64)).requires_grad_()

deaths, edges = h0_persistence(points)
print("15 points,", len(deaths), "finite bars; the last three:", deaths[-3:].detach().tolist())
print("the edges that joined the three groups:", edges[-2:].tolist())

# %%
# All bars are born at 0, and one more never dies. The two long ones are the gaps between the three
# groups. Read bottom up, the merges are the dendrogram of single linkage, and the critical edges
# are a minimum spanning tree of the points; :doc:`/mathematics` says why.
from tsloss_fast.analysis import h0_diagram, plot_barcode, plot_dendrogram, plot_map

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
plot_barcode([h0_diagram(deaths)], left)
plot_dendrogram(deaths, edges, middle)
plot_map(points, edges, right)

# %%
# GUDHI, which builds the complex, finds the same deaths; SciPy takes the merges as they are.
import gudhi
from scipy.cluster.hierarchy import fcluster

complex_ = gudhi.RipsComplex(points=points.detach().numpy()).create_simplex_tree(max_dimension=1)
complex_.persistence(min_persistence=-1)
theirs = torch.from_numpy(complex_.persistence_intervals_in_dimension(0)[:, 1])
theirs = theirs[theirs.isfinite()].sort().values
print("largest difference from GUDHI:", (theirs - deaths.detach()).abs().max().item())

linkage = barcode.single_linkage(h0_persistence(points.detach()))
print("clusters at scale 2:", fcluster(linkage.numpy(), t=2.0, criterion="distance"))

# %%
# The gradient
# ------------
#
# A death is the length of one edge, so its gradient moves the two ends of that edge, by the unit
# vector between them, and no other point.
longest = deaths[-1]
(gradient,) = torch.autograd.grad(longest, points, retain_graph=True)
print("points that the longest bar moves:", gradient.abs().sum(1).nonzero().flatten().tolist())
print("its critical edge:               ", edges[-1].tolist())
print("gradcheck:", torch.autograd.gradcheck(lambda x: h0_persistence(x).deaths, (points,)))

# %%
# That holds where no two lengths are equal, which for points in general position is so. On a tie
# the gradient is that of the tree that is chosen, one of several that are as good; where two points
# coincide it is 0, and never NaN:
same = torch.zeros(3, 2, requires_grad=True)
h0_persistence(same).deaths.sum().backward()
print("gradient of three coincident points:", same.grad.tolist())

# %%
# Many clouds
# -----------
#
# A batch has one dimension more. Clouds of different sizes are padded, with ``lengths``, or stand
# in a row, with offsets; either way each gets what it would get alone, to the last bit.
from tsloss_fast import h0_persistence_varlen

batch = torch.randn(3, 8, 16)
lengths = torch.tensor([8, 5, 2])
padded = h0_persistence(batch, lengths=lengths)
print("deaths of the cloud of 2 points, and the padding:", padded.deaths[2].tolist())
print("mean death of each cloud:", barcode.mean_death(padded.deaths, lengths).tolist())

rows = torch.cat([cloud[:n] for cloud, n in zip(batch, lengths, strict=True)])
ragged = h0_persistence_varlen(rows, [0, 8, 13, 15])
second = ragged.deaths[ragged.offsets[1] : ragged.offsets[2]]
print("the same bits:", torch.equal(second, padded.deaths[1, :4]))

# %%
# Metrics, and functionals of barcodes
# ------------------------------------
#
# Four metrics are built in; any other goes in as a matrix of distances, and may be differentiable.
for metric in ("euclidean", "sqeuclidean", "cosine", "manhattan"):
    print(f"{metric:12}", h0_persistence(batch[0], metric=metric).deaths[:3].tolist())
chebyshev = (batch[0, :, None] - batch[0]).abs().amax(-1)
print("Chebyshev   ", tsloss_fast.h0_persistence_from_distances(chebyshev).deaths[:3].tolist())

# %%
# Functionals take deaths, and are differentiable too. Under a small displacement of the points no
# sorted death moves by more than twice the displacement:
moved = points.detach() + 0.01 * torch.nn.functional.normalize(torch.randn(15, 2).double(), dim=1)
after = h0_persistence(moved).deaths
print("entropy:", barcode.persistent_entropy(deaths.detach(), normalize=True).item())
print("components at scale 2:", barcode.num_components(deaths.detach(), 2.0).item())
print("largest move of a death:", (after - deaths.detach()).abs().max().item(), "<= 0.02")
print("bottleneck distance:    ", barcode.bottleneck_distance(deaths.detach(), after).item())

# %%
# The loss on a soft prompt
# -------------------------
#
# A soft prompt is a few vectors in front of the input of a frozen model, and the only thing that is
# trained. Here the model is a frozen random transformer, small enough for this page, and the task
# is to say whether the first of six tokens is above the last one. The prompt begins as four groups
# of nearly equal vectors: redundant, and badly connected.
#
# ``TSLoss()`` is the sum of *connectivity*, the variance of the deaths over their squared mean, and
# *redundancy*, which counts bars far shorter than the rest. Neither changes when the prompt is
# scaled, so one weight fits all models; 10 is the one the Trainer takes by default. A
# ``TopologyTracker`` records the barcode at every step.
from tsloss_fast.analysis import TopologyTracker, read_record

WIDTH, STEPS = 32, 100
folder = tempfile.TemporaryDirectory()
torch.manual_seed(0)
layer = torch.nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.0, batch_first=True)
model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).requires_grad_(False)
vocabulary = torch.randn(10, WIDTH)
direction = torch.randn(WIDTH)
start = torch.randn(4, WIDTH).repeat_interleave(3, dim=0) + 0.05 * torch.randn(12, WIDTH)


def answer(prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """One number for each row of tokens: its sign is the answer."""
    words = torch.cat([prompt.expand(len(tokens), -1, -1), vocabulary[tokens]], dim=1)
    return model(words)[:, -1] @ direction / WIDTH**0.5


def train(weight: float, name: str) -> float:
    """Tunes a prompt and records it; gives the task's loss on new items at the end."""
    prompt = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([prompt], lr=0.03)
    ts_loss = TSLoss()
    items = torch.Generator().manual_seed(1)

    def task_loss(count: int) -> torch.Tensor:
        tokens = torch.randint(10, (count, 6), generator=items)
        wanted = (tokens[:, 0] > tokens[:, -1]).float()
        return torch.nn.functional.binary_cross_entropy_with_logits(answer(prompt, tokens), wanted)

    with TopologyTracker(Path(folder.name) / name, h1_every=40) as tracker:
        tracker.record(0, prompt)
        for step in range(1, STEPS + 1):
            loss = task_loss(32) + weight * ts_loss(prompt)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tracker.record(step, prompt, keep=step == STEPS)
    with torch.no_grad():
        return task_loss(512).item()


names = {0.0: "the task alone", 10.0: "with TSLoss"}
final = {weight: train(weight, name) for weight, name in names.items()}
records = {weight: read_record(Path(folder.name) / name) for weight, name in names.items()}
for weight, name in names.items():
    spread = records[weight].series("coefficient_of_variation")
    print(f"{name:15} coefficient of variation {spread[0]:.2f} -> {spread[-1]:.2f}, ", end="")
    print(f"task loss on new items {final[weight]:.3f}")

# %%
# The records hold every bar of every step, so the evolution can be drawn.
from tsloss_fast.analysis import plot_series

figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for ax, column in zip(axes, ("coefficient_of_variation", "mean_lifetime"), strict=True):
    curves = {name: (records[w].steps(), records[w].series(column)) for w, name in names.items()}
    plot_series(curves, ax, ylabel=column.replace("_", " "), control="the task alone")

# %%
# What this shows, and what it does not: with the loss the bars become nearly equal, as they should,
# and nothing more. One start, one seed and a toy model say nothing about the task, whichever of the
# two numbers above is lower. In the experiments of this project, with a real language model,
# several tasks and seeds, TSLoss did the same to the structure of prompts, for less than a
# thousandth of a training step, and **was not shown to improve accuracy**; to memorise one answer
# took more steps with it, not fewer. ``tsloss compare`` is there to find out for other models and
# tasks, and ``benchmarks/results/evidence.md`` has all of it.
#
# A report
# --------
#
# ``tsloss report FOLDER`` makes one page of HTML from such folders, which opens without a network:
# what came of the runs, a table of them, barcodes and merge trees with a slider over the steps, and
# all curves.
# This is the same from Python; the names of tokens need a language model, and are left out.
from tsloss_fast.analysis.report.command import write_report

page = write_report(
    [Path(folder.name) / name for name in names.values()],
    Path(folder.name) / "report.html",
    names=False,
)
print(f"{page.name}: {page.stat().st_size / 1e3:.0f} kB, no network needed")
folder.cleanup()

# %%
# Where to go from here: the same in the Hugging Face Trainer is
# :class:`tsloss_fast.tuning.TSLossTrainer` with :class:`tsloss_fast.tuning.PromptTopologyCallback`,
# and ``tsloss tune`` on the command line; one cloud over many processes is
# :func:`tsloss_fast.distributed.h0_persistence`.
