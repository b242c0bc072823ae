"""Draws docs/images/method.svg: `python docs/method.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

GRAY, BLUE, ORANGE = "#5b6470", "#2a6f97", "#d1661f"
WIDTH, HEIGHT, STEP, BOTTOM = 2.3, 1.5, 3.0, 1.0
# title, words, color, command that leads to it
BOXES = [
    ("all-atom run", "positions and forces\nof all atoms", GRAY, ""),
    ("mapped frames", "beads; forces are\nmean force + noise", GRAY, "map"),
    ("teachers", "networks, trained\non noisy forces", BLUE, "teach"),
    ("labels", "mean forces and\nbead energies", BLUE, "label"),
    ("student", "one small network,\ntrained on labels", ORANGE, "distill"),
    ("OpenMM", "dynamics\nof beads", ORANGE, "export"),
]


def main() -> None:
    """Write the picture beside this file."""
    plt.rcParams.update({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10})
    figure, axes = plt.subplots(figsize=(12, 2.3))
    axes.set(xlim=(-0.1, 17.4), ylim=(0.3, 2.9))
    axes.axis("off")
    for k, (title, words, color, command) in enumerate(BOXES):
        x = k * STEP
        axes.add_patch(
            FancyBboxPatch(
                (x, BOTTOM), WIDTH, HEIGHT, boxstyle="round,pad=0.02,rounding_size=0.15",
                facecolor="white", edgecolor=color, linewidth=1.6,
            )
        )  # fmt: skip
        middle, height = x + WIDTH / 2, BOTTOM + HEIGHT / 2
        axes.text(middle, height + 0.37, title, ha="center", weight="bold", color=color)
        axes.text(
            middle, height - 0.23, words, ha="center", va="center", fontsize=8.5, color="#333"
        )
        if command:
            ends = (x - STEP + WIDTH + 0.05, height), (x - 0.05, height)
            style = {"arrowstyle": "-|>", "mutation_scale": 12, "color": GRAY}
            axes.add_patch(FancyArrowPatch(*ends, **style))
            between = x - (STEP - WIDTH) / 2
            axes.text(
                between, height + 0.2, command, ha="center", fontsize=8, style="italic", color=GRAY
            )
    axes.text(7.15, 0.55, "their mean has less noise", ha="center", fontsize=8.5, color=BLUE)
    axes.text(13.15, 0.55, "fast enough to run", ha="center", fontsize=8.5, color=ORANGE)
    figure.savefig(
        Path(__file__).parent / "images" / "method.svg",
        bbox_inches="tight",
        metadata={"Date": None},
    )


if __name__ == "__main__":
    main()
