"""What a face shows as HTML, for the page of `analyze` and for the demo."""

from facepcl.analysis.drawing import AXES, AXIS_NAMES
from facepcl.analysis.words import UNIT_NAMES, expressions_of, pose_text, strongest
from facepcl.images.html import escaped

UNITS = 4
STYLE = """
.legend { display: flex; flex-wrap: wrap; gap: 2px 20px; }
.legend i { display: inline-block; width: 22px; height: 4px; vertical-align: middle; margin-right: 6px; }
.face { min-width: 0; font-size: 13px; line-height: 1.35; }
.face p { margin: 0 0 4px; }
.pose { display: flex; flex-wrap: wrap; gap: 0 8px; font-variant-numeric: tabular-nums; margin: 0; }
.pose span { white-space: nowrap; }
.face dl { display: grid; grid-template-columns: max-content 1fr max-content; gap: 1px 8px; margin: 0 0 8px;
  align-items: center; }
.face .units { grid-template-columns: 1fr 40px max-content; }
.face dt { grid-column: 1; }
.face dd { margin: 0; font-variant-numeric: tabular-nums; text-align: right; }
.face .bar { height: 7px; border-radius: 4px; background: rgba(127, 127, 127, .2); overflow: hidden; }
.face .bar i { display: block; height: 100%; background: #0d9488; }
.face .most { font-weight: 600; }
"""


def axes_legend() -> str:
    """What the axes of `facepcl.analysis.drawing` mean."""
    axes = "".join(
        f'<span><i style="background: {colour}"></i>{name}</span>'
        for colour, name in zip(AXES, AXIS_NAMES, strict=True)
    )
    return f'<p class="legend soft">Axes of the head: {axes}</p>'


def describe_face(attributes: dict[str, float], label: str = "") -> str:
    """Pose, the probability of each expression, and the strongest action units with their names."""
    expressions = expressions_of(attributes)
    likely = max(expressions.values(), default=0.0)
    probabilities = "".join(
        _bar(name, value, f"{100 * value:.0f} %", value == likely) for name, value in expressions.items()
    )
    units = "".join(
        _bar(f"{name} {UNIT_NAMES.get(name, '')}".rstrip(), value, f"{value:.2f}")
        for name, value in strongest(attributes, UNITS)
    )
    return (
        f'<div class="face">{describe_pose(attributes, label)}<dl>{probabilities}</dl>'
        f'<dl class="units">{units or "<dt>no strong action unit</dt>"}</dl></div>'
    )


def describe_pose(attributes: dict[str, float], label: str = "") -> str:
    """Yaw, pitch and roll in a line that is broken between them."""
    heading = f"<b>{escaped(label)}</b>" if label else ""
    angles = "".join(f"<span>{escaped(angle)}</span>" for angle in pose_text(attributes).split("  "))
    return f'<p class="pose">{heading}{angles}</p>'


def _bar(name: str, share: float, value: str, most: bool = False) -> str:
    mark = ' class="most"' if most else ""
    return (
        f'<dt{mark}>{escaped(name)}</dt><dd class="bar"><i style="width: {100 * share:.0f}%"></i></dd>'
        f"<dd{mark}>{value}</dd>"
    )
