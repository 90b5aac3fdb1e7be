"""How the viewer opens: the 3D scene large, the cameras beside it, the service's figures below."""

from collections.abc import Sequence
from typing import Literal

import rerun.blueprint as rrb

from perception.viewer.rerun_plots import COUNTS, DROPS, HEALTH, LATENCY, OFFSETS
from perception.viewer.rerun_scene import CAPTURE_TIME, camera_path

Frame = Literal["ego", "world"]

BACKGROUND = (14, 16, 20)
EYE_M, TARGET_M = (-22.0, 0.0, 15.0), (10.0, 0.0, 0.0)
PLOTS = (
    ("Latency [ms]", LATENCY, True),
    ("Sync offset [ms]", OFFSETS, False),
    ("Sensor rate [Hz]", HEALTH, False),
    ("Dropped", DROPS, True),
    ("Detections", COUNTS, False),
)
"""Name, origin, and whether there is a legend: that of all sensors would hide the lines; the mouse tells them too."""


def layout(*, frame: Frame, cameras: Sequence[str], has_results: bool) -> rrb.Blueprint:
    """A blueprint for drives with these cameras (may be none), and for results (then with plots)."""
    scene: rrb.Container | rrb.View = _scene(frame)
    if cameras:
        views = [rrb.Spatial2DView(origin=camera_path(name), name=name, background=BACKGROUND) for name in cameras]
        grid = rrb.Grid(*views, grid_columns=1 if len(views) < 4 else 2)
        scene = rrb.Horizontal(scene, grid, column_shares=[3, 2])
    if has_results:
        plots = [
            rrb.TimeSeriesView(
                origin=origin, name=name, plot_legend=rrb.PlotLegend(rrb.Corner2D.LeftTop, visible=has_legend)
            )
            for name, origin, has_legend in PLOTS
        ]
        # The first is wide, as its legend would hide the lines.
        figures = rrb.Horizontal(*plots, column_shares=[2] + [1] * (len(plots) - 1))
        scene = rrb.Vertical(scene, figures, row_shares=[3, 1])
    return rrb.Blueprint(
        scene,
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
        rrb.TimePanel(state="collapsed", timeline=CAPTURE_TIME),
        auto_views=False,
    )


def _scene(frame: Frame) -> rrb.View:
    is_ego = frame == "ego"
    eye = rrb.EyeControls3D(
        position=EYE_M, look_target=TARGET_M, eye_up=(0.0, 0.0, 1.0), tracking_entity=None if is_ego else "world/ego"
    )
    return rrb.Spatial3DView(
        origin="world/ego" if is_ego else "world",
        contents="world/**",
        name="Scene",
        background=BACKGROUND,
        eye_controls=eye,
        line_grid=rrb.LineGrid3D(visible=True, spacing=10.0, stroke_width=1.0, color=(255, 255, 255, 24)),
    )
