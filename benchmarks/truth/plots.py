"""The pictures of the benchmark that the docs show."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.truth.contest import Samples
from benchmarks.truth.evidence import Array
from benchmarks.truth.measures import bootstrap

mpl.use("Agg")
from matplotlib import pyplot as plt

SHOWN = (
    "channel pearson",
    "own word first",
    "shortcut in first three, unbiased",
    "shortcut in first three, confounded",
    "false shortcut in first three, confounded",
    "image has the cue, AUPRC",
)


SHOWN_OF_FAMILY = (
    "first word is in the rule",
    "said words that are in the rule",
    "words of the rule in the first three",
    "Spearman with effect",
    "channel pearson",
    "groups ARI",
)


def draw_family(name: str, found: dict[str, Samples], folder: Path) -> None:
    """Write truth_<name>.png."""
    folder.mkdir(parents=True, exist_ok=True)
    judged = {entrant: samples for entrant, samples in found.items() if "channel pearson" in samples}
    judged |= {entrant: samples for entrant, samples in found.items() if entrant == "no channels"}
    _bars(judged, folder / f"truth_{name}.png", SHOWN_OF_FAMILY)


def draw(found: dict[str, dict[str, Samples]], folder: Path) -> None:
    """Write truth_t0.png and truth_t1.png of the parts that there are."""
    folder.mkdir(parents=True, exist_ok=True)
    if "t0" in found:
        _naming(found["t0"], folder / "truth_t0.png")
    if "t1" in found:
        _bars(found["t1"], folder / "truth_t1.png")


def _naming(found: dict[str, Samples], path: Path) -> None:
    """Right names against noise, one line a method."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for axis, asked, told in zip(
        axes, ("one meaning", "two meanings"), ("top-1", "both in first five"), strict=True
    ):
        for method, samples in found.items():
            names = [name for name in samples if name.startswith(asked) and name.endswith(told)]
            noise = [float(name.split("noise ")[1].split(":")[0]) for name in names]
            axis.plot(noise, [np.mean(samples[name]) for name in names], marker="o", label=method)
        axis.set(xscale="log", xlabel="noise, in lengths of an attribute", title=f"{asked}: {told}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of channels named right")
    axes[1].legend(fontsize=8)
    _save(figure, path)


def _bars(found: dict[str, Samples], path: Path, shown: tuple[str, ...] = SHOWN) -> None:
    """A panel a measure, a bar a method, with intervals."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7))
    for axis, measure in zip(axes.ravel(), shown, strict=True):
        methods = [name for name, samples in found.items() if len(samples.get(measure, ()))]
        stats = np.array([bootstrap(np.array(found[name][measure], float)) for name in methods])
        place = np.arange(len(methods))[::-1]
        spread = np.abs(stats[:, 1:] - stats[:, :1]).T
        colours = ["#1d6fb8" if name == "ours" else "#b9c2cc" for name in methods]
        axis.barh(place, stats[:, 0], xerr=spread, color=colours, error_kw={"lw": 1})
        axis.set_yticks(place, methods, fontsize=8)
        axis.set_title(measure + (" (lower is better)" if measure.startswith("false") else ""), fontsize=9)
        axis.set_xlim(min(0, 1.05 * stats[:, 1].min()), 1.02)
    _save(figure, path)


def draw_calibration(found: dict[str, dict[str, Array]], folder: Path) -> None:
    """Write truth_calibration.png from pairs (n, 2) of confidence and right, by level and sort of world."""
    folder.mkdir(parents=True, exist_ok=True)
    size = 3.6 * len(found), 4.4
    figure, axes = plt.subplots(1, len(found), figsize=size, sharey=True, layout="constrained")
    for axis, (level, worlds) in zip(axes, found.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="#888888", lw=1, ls="--")
        for world, pairs in worlds.items():
            order = np.argsort(pairs[:, 0], kind="stable")
            bins = np.array([pairs[one].mean(0) for one in np.array_split(order, 10) if len(one)])
            all_ = world == "all"
            style = {"color": "black", "lw": 2.2, "zorder": 3} if all_ else {"lw": 1, "alpha": 0.8}
            axis.plot(bins[:, 0], bins[:, 1], marker="o", ms=4, label=world, **style)
        axis.set(xlabel="confidence", title=level, xlim=(0, 1), ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of first words that are right")
    handles = {line.get_label(): line for axis in axes for line in axis.lines[1:]}
    figure.legend(handles.values(), handles.keys(), fontsize=8, loc="outside lower center", ncols=4)
    _save(figure, folder / "truth_calibration.png")


def _save(figure: plt.Figure, path: Path) -> None:
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
