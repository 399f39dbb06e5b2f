"""Details of rendered faces: folds follow the units, teeth in open mouths, hairs at the edge of the hair."""

import numpy as np
import pytest
from synthetic_faces import render
from synthetic_faces.expressions import Expression
from synthetic_faces.eyes import LashMap
from synthetic_faces.generator import Generator
from synthetic_faces.head import LOWER_TEETH, UPPER_TEETH
from synthetic_faces.kernels.details import relieved, tooth
from synthetic_faces.kernels.pixels import EYE
from synthetic_faces.kernels.scalars import strand
from synthetic_faces.mouth import Arch
from synthetic_faces.pose import Pose
from synthetic_faces.skin import FACE

WHITE = np.array([0.8, 0.75, 0.65])


@pytest.fixture(scope="module")
def generator():
    return Generator(seed=7, size=64)


@pytest.fixture(scope="module")
def places(generator):
    """x and y of the face's texels in decimetres of the rest mesh."""
    return generator.head.texel_x[FACE], generator.head.texel_y[FACE]


def moved(person, units):
    """How much each texel's relief changes with expression units."""
    folds = person.folds
    return np.abs(folds.relief(units) - folds.relief({}))[..., 2]


def test_raised_brows_fold_the_forehead_and_nothing_else(generator, places):
    change = moved(generator.person(1), {"browInnerUp": 1.0})
    _, y = places
    assert change[y > 7.6].max() > 0.05
    assert change[y < 7.4].max() == 0


@pytest.mark.parametrize("unit", ["cheekSquint", "mouthSmile", "noseSneer", "browDown", "browOuterUp"])
def test_folds_of_a_unit_lie_on_its_side(generator, places, unit):
    x, _ = places
    left, right = (moved(generator.person(1), {unit + side: 1.0}) for side in ("Left", "Right"))
    assert left[x > 0].sum() > 20 * left[x < -0.1].sum()
    assert right[x < 0].sum() > 20 * right[x > 0.1].sum()


def test_stronger_units_fold_deeper(generator):
    person = generator.person(1)
    depths = [moved(person, {"mouthSmileLeft": value}).sum() for value in (0.3, 0.6, 0.9)]
    assert 0 < depths[0] < depths[1] < depths[2]


def test_old_faces_are_lined_at_rest(generator):
    people = [generator.person(identity) for identity in range(24)]
    depth = [person.folds.relief({})[..., 2].mean() for person in people]
    age = [person.shape.age for person in people]
    old = np.mean([d for d, a in zip(depth, age, strict=True) if a > 0.6])
    young = np.mean([d for d, a in zip(depth, age, strict=True) if a < 0.5])
    assert old > 1.3 * young


def test_relief_tilts_the_normal_away_from_what_rises():
    """What rises to the subject's left faces right; what rises upwards faces down."""
    relief = np.zeros((4, 4, 3))
    relief[..., 0], relief[..., 1] = 0.5, 0.3
    x, y, z, _ = relieved(relief, 0, 0, 1.5, 1.5, (0.0, 0.0, 1.0), np.array([0.0, 1.0, 0.0]))
    assert x < -0.3
    assert y < -0.2
    assert z > 0.7
    assert relieved(relief, 0, 0, 9.0, 1.5, (0.0, 0.0, 1.0), np.array([0.0, 1.0, 0.0])) == (0, 0, 1, 0)


def test_teeth_are_white_between_dark_gaps_and_red_gums():
    colour, gap, gum = np.zeros(3), np.zeros(3), np.zeros(3)
    tooth(0.043, 0.5, WHITE, colour)
    tooth(0.086, 0.5, WHITE, gap)
    tooth(0.043, 1.4, WHITE, gum)
    assert colour.mean() > 1.4 * gap.mean()
    assert colour[2] / colour[0] > 0.7
    assert gum[2] / gum[0] < 0.5


@pytest.mark.parametrize("part", [UPPER_TEETH, LOWER_TEETH])
def test_rows_of_teeth_follow_the_source_and_are_symmetric(generator, part):
    head = generator.head
    arch = Arch(head, part)
    points = arch.points(head.vertices)
    np.testing.assert_allclose(points[:, 0].min(), -points[:, 0].max(), atol=0.01)
    source = head.vertices[head.part == part]
    away = np.linalg.norm(points[:, None] - source[None], axis=-1).min(1)
    assert away.max() < 0.09
    lowered = head.vertices.copy()
    head.push(lowered, "unit/jawOpen", 1.0)
    drop = (arch.points(head.vertices) - arch.points(lowered))[:, 1].mean()
    assert drop > 0.1 if part == LOWER_TEETH else abs(drop) < 1e-9


@pytest.mark.parametrize(("unit", "shown"), [("mouthPressLeft", 0), ("jawOpen", 1)])
def test_teeth_are_in_the_dark_until_the_lips_part(generator, unit, shown):
    points = generator.head.vertices.copy()
    generator.head.push(points, f"unit/{unit}", 0.6)
    assert Arch(generator.head, UPPER_TEETH).shown(points) == shown


def test_lashes_lie_on_both_lids_of_both_eyes(generator):
    lashes = LashMap(generator.head)
    roots = generator.head.vertices[lashes.roots]
    assert {True, False} == set(roots[:, 0] > 0)
    assert roots[:, 1].max() - roots[:, 1].min() > 0.08
    assert lashes.upper.sum() > (~lashes.upper).sum()


def test_brows_differ_between_people(generator):
    """Single hairs: neighbouring texels differ, and so do the shares of skin that people's brows cover."""
    brow = np.s_[90:120, 180:300]
    tones = [generator.person(identity).skin[brow].mean(-1) for identity in range(4)]
    rough = [np.abs(np.diff(tone, axis=0)).max() / tone.max() for tone in tones]
    assert min(rough) > 0.1
    assert np.ptp([tone.min() / tone.max() for tone in tones]) > 0.02


def test_strands_are_long_and_thin():
    noise = np.array([[strand(row, column) for column in np.arange(0, 20, 0.5)] for row in range(40)])
    assert np.abs(noise).max() <= 1
    assert np.abs(np.diff(noise, axis=1)).mean() > 2 * np.abs(np.diff(noise, axis=0)).mean()


@pytest.mark.parametrize("identity", [1, 58])  # an adult, a baby
def test_a_blink_closes_the_eyes_at_every_age(generator, monkeypatch, identity):
    seen, lit = [], render._lit

    def count_eyes(model, geometry, cuts, eyes, shot, camera, hits):
        shown = hits.triangle[hits.triangle >= 0]
        seen.append((geometry.material[shown] == EYE).sum())
        return lit(model, geometry, cuts, eyes, shot, camera, hits)

    monkeypatch.setattr(render, "_lit", count_eyes)
    person = generator.person(identity)
    shot = generator._series_shot(person, 0, "expression")
    shot.wear.glasses = shot.wear.hat = "none"
    shot.pose = Pose(0.0, 0.0, 0.0)
    for closed in (0.0, 1.0):
        units = {"eyeBlinkLeft": closed, "eyeBlinkRight": closed}
        shot.expression = Expression(None, units, np.zeros(2))
        render.render(generator.head, person, shot, 96)
    assert seen[0] > 50
    assert seen[1] == 0
