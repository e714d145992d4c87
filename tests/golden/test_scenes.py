"""Generated scenes: pinned bytes, and labels against geometry computed a second time in another way."""

import hashlib
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from robustprobe import UserError, load_dataset
from robustprobe.datasets._rendering import (
    FIRST_OBJECT,
    FLOOR,
    IGNORE,
    SURFACES,
    WALL,
    Rendering,
    render,
)
from robustprobe.datasets._scene_sampling import SHAPES, Scene, Solid, sample_scene

pytestmark = pytest.mark.golden

SIZE = 64
NAMES = [f"test-{i}" for i in range(60)]
SPHERE, BOX = (FIRST_OBJECT + SHAPES.index(s) for s in ("sphere", "box"))

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def renderings() -> dict[str, Rendering]:
    return {name: render(name, SIZE) for name in NAMES}


def digest(rendering: Rendering) -> str:
    state = hashlib.sha256(rendering.image.tobytes() + rendering.mask.tobytes() + bytes([rendering.label]))
    state.update(np.round(rendering.depth * 1000).astype("<u2").tobytes())
    return state.hexdigest()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train-0", "bf55e8265603ad62a37936335db9bb7dc7e17e39b473b35f699894cfcb85da76"),
        ("val-7", "e56f3aaf36fb9f1cc295aaf076af594472e987b3aea1f94e861ad7f9a45e83dc"),
        ("test-42", "91fdd2fe4bc50cb1daf7fcc02283172c0e8d2626679aad647ec3d9a19d35708f"),
    ],
)
def test_image_mask_depth_and_label_of_an_id_never_change(name: str, expected: str) -> None:
    assert digest(render(name, SIZE)) == expected


def test_id_alone_decides_the_image() -> None:
    whole, part = load_dataset("scenes"), load_dataset("scenes", limit=9)
    for position, identity in enumerate(part.kept_ids):
        a, b = part[position], whole[int(identity.split("-")[1])]
        assert a.id == b.id == identity
        assert np.array_equal(a.image, b.image)
        assert all(np.array_equal(a.targets[task], b.targets[task]) for task in a.targets)
        rendering = render(identity, SIZE)
        assert np.array_equal((a.image * 255).round().byte().permute(1, 2, 0), rendering.image)
        assert np.array_equal(a.targets["segmentation"], rendering.mask)
        assert np.array_equal(a.targets["depth"], rendering.depth)
        assert int(a.targets["classification"]) == rendering.label


def test_images_differ() -> None:
    assert len({digest(render(name, 16)) for name in (*NAMES, "train-0", "val-0")}) == len(NAMES) + 2


def test_appearance_changes_pixels_and_no_label(renderings: dict[str, Rendering]) -> None:
    for name in NAMES[:5]:
        other, first = render(name, SIZE, "another"), renderings[name]
        assert (other.image != first.image).mean() > 0.5
        assert np.array_equal(other.mask, first.mask)
        assert np.array_equal(other.depth, first.depth)
        assert np.array_equal(other.normals, first.normals)
        assert other.label == first.label


def rays(scene: Scene) -> Array:
    """Directions (SIZE, SIZE, 3) through pixel centres, of length 1 along the optical axis, by a camera matrix."""
    pitch, focal = scene.camera.pitch, scene.camera.focal
    pose = np.array([[1, 0, 0], [0, math.cos(pitch), math.sin(pitch)], [0, -math.sin(pitch), math.cos(pitch)]])
    across = (np.arange(SIZE) + 0.5 - SIZE / 2) / (SIZE / 2 * focal)
    x, y = np.meshgrid(across, -across)
    return np.asarray(np.stack([x, y, np.ones_like(x)], axis=-1) @ pose)


def planes(scene: Scene) -> tuple[Array, Array]:
    """Depth of the floor y = 0 and of the wall z = `wall` along every ray; infinite where they are not met."""
    feature_rank = rays(scene)
    with np.errstate(divide="ignore"):
        floor = np.where(feature_rank[..., 1] < 0, -scene.camera.height / feature_rank[..., 1], np.inf)
    return floor, scene.wall / feature_rank[..., 2]


def ellipsoid(scene: Scene, solid: Solid) -> Array:
    """Depth of a sphere, which stands on the floor stretched in height: |(p - centre) / radii| = 1."""
    radii = np.array([solid.scale[0], solid.scale[1], solid.scale[0]])
    centre = np.array([solid.position[0], solid.scale[1], solid.position[1]])
    d, o = rays(scene) / radii, (np.array([0, scene.camera.height, 0]) - centre) / radii
    a, b, c = (d * d).sum(-1), 2 * (d @ o), o @ o - 1
    discriminant = b * b - 4 * a * c
    near = (-b - np.sqrt(np.maximum(discriminant, 0))) / (2 * a)
    return np.where((discriminant > 0) & (near > 0), near, np.inf)


def cuboid(scene: Scene, solid: Solid) -> Array:
    """Depth of a box, by the slabs along its own three axes."""
    cos, sin = math.cos(solid.turn), math.sin(solid.turn)
    axes = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    half = 0.85 * np.array([solid.scale[0], solid.scale[1], solid.scale[0]])
    centre = np.array([solid.position[0], half[1], solid.position[1]])
    d, o = rays(scene) @ axes.T, axes @ (np.array([0, scene.camera.height, 0]) - centre)
    with np.errstate(divide="ignore"):
        first, second = (-half - o) / d, (half - o) / d
    near, far = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
    return np.where((near < far) & (near > 0), near, np.inf)


def nearest(scene: Scene, shape: str) -> Array:
    """Depth of the nearest solid of a shape; infinite where there is none."""
    meet = ellipsoid if shape == "sphere" else cuboid
    depths = [meet(scene, solid) for solid in scene.solids if solid.shape == shape]
    return np.asarray(np.min([np.full((SIZE, SIZE), np.inf), *depths], axis=0))


def test_depth_is_that_of_the_surface_the_mask_names(renderings: dict[str, Rendering]) -> None:
    pixels = dict.fromkeys((FLOOR, WALL, SPHERE, BOX), 0)
    for name, rendering in renderings.items():
        scene = sample_scene(name)
        surfaces = dict(zip((FLOOR, WALL), planes(scene), strict=True))
        surfaces |= {SPHERE: nearest(scene, "sphere"), BOX: nearest(scene, "box")}
        for surface, depth in surfaces.items():
            here = rendering.mask == surface
            np.testing.assert_allclose(rendering.depth[here], depth[here], rtol=1e-5)
            pixels[surface] += int(here.sum())
    assert min(pixels.values()) > 1000


def test_nothing_that_is_nearer_is_overlooked(renderings: dict[str, Rendering]) -> None:
    for name, rendering in renderings.items():
        scene = sample_scene(name)
        surfaces = [*planes(scene), nearest(scene, "sphere"), nearest(scene, "box")]
        assert (rendering.depth <= np.min(surfaces, axis=0) * (1 + 1e-5)).all()


def points(scene: Scene, depth: NDArray[np.float32]) -> Array:
    """Camera coordinates (SIZE, SIZE, 3) in metres of what each pixel shows: x right, y up, z towards the viewer."""
    size = len(depth)
    across = (np.arange(size) + 0.5 - size / 2) / (size / 2 * scene.camera.focal)
    x, y = np.meshgrid(across, -across)
    return np.asarray(np.stack([x, y, -np.ones_like(x)], axis=-1) * depth[..., None])


def normals_from_depth(scene: Scene, depth: NDArray[np.float32]) -> Array:
    """Normals (SIZE - 2, SIZE - 2, 3) of the inner pixels: cross product of the differences of their neighbours."""
    p = points(scene, depth)
    normal = np.cross(p[1:-1, 2:] - p[1:-1, :-2], p[:-2, 1:-1] - p[2:, 1:-1])
    return np.asarray(normal / np.linalg.norm(normal, axis=-1, keepdims=True))


def normals_of(rendering: Rendering) -> Array:
    return rendering.normals.transpose(1, 2, 0).astype(float)


def inside(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Inner pixels (SIZE - 2, SIZE - 2) whose eight neighbours show the same surface, and none of them an edge."""
    size, centre = len(mask), mask[1:-1, 1:-1]
    around = [mask[i : i + size - 2, j : j + size - 2] == centre for i in range(3) for j in range(3)]
    return np.asarray(np.all(around, axis=0) & (centre != IGNORE))


def degrees(a: Array, b: Array) -> Array:
    return np.asarray(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1))))


def test_normals_equal_finite_differences_of_depth() -> None:
    """Planes have no error of discretisation; medians leave out edges between faces of one solid."""
    errors: dict[int, list[Array]] = {surface: [] for surface in range(len(SURFACES))}
    for name in NAMES[:20]:
        rendering, scene = render(name, 2 * SIZE), sample_scene(name)
        found = degrees(normals_of(rendering)[1:-1, 1:-1], normals_from_depth(scene, rendering.depth.astype(float)))
        here, mask = inside(rendering.mask), rendering.mask[1:-1, 1:-1]
        for surface, of_surface in errors.items():
            of_surface.append(found[here & (mask == surface)])
    joined = {SURFACES[surface]: np.concatenate(found) for surface, found in errors.items()}
    assert max(joined["floor"].max(), joined["wall"].max()) < 0.01
    assert all(len(found) > 100 and np.median(found) < 0.2 for found in joined.values())
    assert all(np.quantile(joined[shape], 0.8) < 1 for shape in ("sphere", "cone", "cylinder", "box", "pyramid"))


def test_normals_have_unit_length_and_face_the_camera(renderings: dict[str, Rendering]) -> None:
    for name, rendering in renderings.items():
        assert rendering.normals.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rendering.normals, axis=0), 1, atol=1e-6)
        towards = np.einsum("ijk,ijk->ij", normals_of(rendering), points(sample_scene(name), rendering.depth))
        assert (towards < 0).all()


def test_normals_of_floor_and_wall_follow_from_the_pitch(renderings: dict[str, Rendering]) -> None:
    for name, rendering in renderings.items():
        pitch = sample_scene(name).camera.pitch
        up, towards = (0, math.cos(pitch), math.sin(pitch)), (0, -math.sin(pitch), math.cos(pitch))
        for surface, normal in ((FLOOR, up), (WALL, towards)):
            here = rendering.mask == surface
            np.testing.assert_allclose(normals_of(rendering)[here], np.broadcast_to(normal, (here.sum(), 3)), atol=1e-6)


def test_normals_never_change() -> None:
    """On a grid of 1/1000, so that the last bit of a cosine does not matter."""
    grid = np.round(normals_of(render("test-42", SIZE)) * 1000).astype("<i2")
    assert (
        hashlib.sha256(grid.tobytes()).hexdigest() == "5e0199a3487beb2ac7165146e4ab7ad626841ffc5bc41c5cd37b00ffa2ad48df"
    )


def test_depths_are_within_the_range_of_the_dataset(renderings: dict[str, Rendering]) -> None:
    for rendering in renderings.values():
        assert rendering.depth.min() > 0.3
        assert rendering.depth.max() < 10


def test_objects_stand_on_the_floor_before_the_wall() -> None:
    for name in NAMES:
        scene = sample_scene(name)
        assert all(0 < solid.position[1] < scene.wall for solid in scene.solids)
        assert 3 <= len(scene.solids) <= 5


def test_label_is_the_shape_of_the_largest_visible_object(renderings: dict[str, Rendering]) -> None:
    """Where every shape occurs once, the mask says how large each object appears; edges are left out, hence 10 %."""
    judged = 0
    for name, rendering in renderings.items():
        shapes = [solid.shape for solid in sample_scene(name).solids]
        areas = np.bincount(rendering.mask[rendering.mask != IGNORE], minlength=FIRST_OBJECT + len(SHAPES))[2:]
        assert areas[rendering.label] > 0
        second, first = np.sort(areas)[-2:]
        if len(set(shapes)) == len(shapes) and first > 1.1 * second:
            assert rendering.label == int(areas.argmax())
            judged += 1
    assert judged >= 10


def test_every_shape_is_a_label_and_none_is_rare(renderings: dict[str, Rendering]) -> None:
    assert len(SHAPES) >= 6
    labels = [render(f"train-{i}", 16).label for i in range(150)]
    counts = np.bincount(labels, minlength=len(SHAPES))
    assert (counts > 150 / len(SHAPES) / 3).all()


def test_pixels_that_count_hold_one_class_and_ignored_ones_are_at_borders(renderings: dict[str, Rendering]) -> None:
    """Rendered at twice the size, the centres of pixels are the four sampled points of a pixel."""
    for name in NAMES[:20]:
        mask, fine = renderings[name].mask, render(name, 2 * SIZE).mask
        blocks = fine.reshape(SIZE, 2, SIZE, 2).transpose(0, 2, 1, 3).reshape(SIZE, SIZE, 4)
        counted = mask != IGNORE
        assert ((blocks == mask[..., None]) | (blocks == IGNORE))[counted].all()
        padded = np.pad(mask, 1, mode="edge")
        around = [padded[i : i + SIZE, j : j + SIZE] for i in range(3) for j in range(3)]
        lowest = np.min([np.where(a == IGNORE, 254, a) for a in around], axis=0)
        highest = np.max([np.where(a == IGNORE, 0, a) for a in around], axis=0)
        inside = ~counted & (lowest == highest)
        assert inside.sum() <= 0.001 * mask.size
        assert 0 < (~counted).mean() < 0.2


@pytest.mark.parametrize("size", [(64, 32), (8, 8), (2048, 2048)])
def test_sizes_no_scene_can_have_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="scenes are square, of 16 to 1024 pixels"):
        load_dataset("scenes", size=size)
