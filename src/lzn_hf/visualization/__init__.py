# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""Pictures of images, latent zones, embeddings, training and quality.

`plot_...` functions return a matplotlib figure: `figure.savefig("zones.png")` writes it, [`draw_figure`] makes a PIL image of it. Grids and
strips of images alone are PIL images from the start. Importing this package imports neither matplotlib nor scikit-learn nor scipy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .assignments import plot_assignment_flow, plot_assignments
    from .curves import plot_measures, plot_quality
    from .embeddings import map_to_plane, plot_embeddings
    from .figures import draw_figure
    from .grids import comparison_grid, image_grid, trajectory_strip
    from .reliability import plot_reliability
    from .runs import plot_curves
    from .samples import plot_samples, plot_trajectory
    from .zones import ZoneWheel, plot_zones

_MODULES = {
    "ZoneWheel": "zones",
    "comparison_grid": "grids",
    "draw_figure": "figures",
    "image_grid": "grids",
    "map_to_plane": "embeddings",
    "plot_assignment_flow": "assignments",
    "plot_assignments": "assignments",
    "plot_curves": "runs",
    "plot_embeddings": "embeddings",
    "plot_measures": "curves",
    "plot_quality": "curves",
    "plot_reliability": "reliability",
    "plot_samples": "samples",
    "plot_trajectory": "samples",
    "plot_zones": "zones",
    "trajectory_strip": "grids",
}

__all__ = [
    "ZoneWheel",
    "comparison_grid",
    "draw_figure",
    "image_grid",
    "map_to_plane",
    "plot_assignment_flow",
    "plot_assignments",
    "plot_curves",
    "plot_embeddings",
    "plot_measures",
    "plot_quality",
    "plot_reliability",
    "plot_samples",
    "plot_trajectory",
    "plot_zones",
    "trajectory_strip",
]


def __getattr__(name: str) -> Any:
    """Imports the module of a function when somebody first asks for it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
