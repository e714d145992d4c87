"""A small ray caster: convex solids on a floor before a wall, with exact class, mask, depth and normals.

Per-pixel arithmetic uses only operations that IEEE 754 rounds exactly (+, -, *, /, square root), and all
randomness comes from one seeded stream, so that a scene is the same on every machine.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustprobe.datasets._scene_sampling import SHAPES, Array, Camera, Scene, Solid, Stream, Texture, sample_scene

Vector = tuple[Array, Array, Array]

SURFACES = ("floor", "wall", *SHAPES)
IGNORE = 255
FLOOR, WALL, FIRST_OBJECT = 0, 1, 2
SAME_POINT = 1e-4
"""Two points this much of their depth apart, or less, are one."""
SUBPIXELS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))

_SLOPE = 0.5
_PLANES: dict[str, tuple[tuple[tuple[float, float, float], float], ...]] = {
    "sphere": (),
    "box": (
        ((1, 0, 0), 0.85),
        ((-1, 0, 0), 0.85),
        ((0, 1, 0), 1.7),
        ((0, -1, 0), 0),
        ((0, 0, 1), 0.85),
        ((0, 0, -1), 0.85),
    ),
    "cylinder": (((0, 1, 0), 2), ((0, -1, 0), 0)),
    "cone": (((0, 1, 0), 2), ((0, -1, 0), 0)),
    "pyramid": (
        ((0, -1, 0), 0),
        *(((x, _SLOPE, z), 1.0) for x, z in ((1, 0), (-1, 0), (0, 1), (0, -1))),
    ),
    "octahedron": tuple(((x, y, z), 1.0 + y) for x in (1, -1) for y in (1, -1) for z in (1, -1)),
}


class Rendering(NamedTuple):
    """`image` (size, size, 3) uint8; `mask` (size, size) uint8 into SURFACES or IGNORE; `depth` (size, size) metres;
    `normals` (3, size, size) outward unit vectors; `label` index into SHAPES of the object with the largest visible
    area.

    Depth and normals are those of the point that the ray through the pixel's centre meets first. Normals are in camera
    coordinates: x to the right, y up, z along the optical axis towards the camera, so that a surface that faces the
    camera has (0, 0, 1). Every normal makes an angle of more than 90 degrees with the ray of its pixel; z can still be
    a little negative far from the image's centre, where rays are not parallel to the optical axis.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    label: int


def render(identity: str, size: int = 64, appearance: str = "") -> Rendering:
    """Render the scene of an image id at `size` x `size` pixels."""
    scene = sample_scene(identity, appearance)
    origin = (0.0, scene.camera.height, 0.0)
    centre = _surfaces(scene, origin, _rays(scene.camera, size, 0.5, 0.5))
    image = np.zeros((size * size, 3))
    classes = _classes(scene, centre.surface)
    mask = classes.copy()
    for u, v in SUBPIXELS:
        hit = _surfaces(scene, origin, _rays(scene.camera, size, u, v))
        image += _shade(scene, hit) / len(SUBPIXELS)
        mask[_classes(scene, hit.surface) != classes] = IGNORE
    image += scene.grain * (Stream(f"{identity}/grain{appearance}").array(size * size, 3) - 0.5) * 2
    pixels = np.floor(np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    visible = np.bincount(centre.surface, minlength=FIRST_OBJECT + len(scene.solids))[FIRST_OBJECT:]
    label = SHAPES.index(scene.solids[int(visible.argmax())].shape)
    depth = centre.distance.astype(np.float32).reshape(size, size)
    normals = _in_camera(scene.camera, centre.normal).astype(np.float32).reshape(3, size, size)
    return Rendering(pixels.reshape(size, size, 3), mask.reshape(size, size), depth, normals, label)


class TwoViews(NamedTuple):
    """Two views of a scene, `first` and `second` (size, size, 3) uint8; `places` (2, size, size) x and y from 0 to 1 in
    the second view of the point at each pixel's centre of the first; `seen` (size, size) whether it is seen, 0 or 1.
    """

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    places: NDArray[np.float32]
    seen: NDArray[np.float32]


def two_views(identity: str, size: int = 64) -> TwoViews:
    """The image of a scene, and one from a camera that is moved, tilted and zoomed, with exact places of its points."""
    scene = sample_scene(identity)
    camera, origin = _second_camera(scene, identity)
    image = np.zeros((size * size, 3))
    for u, v in SUBPIXELS:
        image += _shade(scene, _surfaces(scene, origin, _rays(camera, size, u, v))) / len(SUBPIXELS)
    image += scene.grain * (Stream(f"{identity}/second grain").array(size * size, 3) - 0.5) * 2
    second = np.floor(np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).reshape(size, size, 3)
    hit = _surfaces(scene, (0.0, scene.camera.height, 0.0), _rays(scene.camera, size, 0.5, 0.5))
    places, seen = _places(scene, camera, origin, hit)
    shape = (size, size)
    return TwoViews(render(identity, size).image, second, places.reshape(2, *shape), seen.reshape(shape))


def _second_camera(scene: Scene, identity: str) -> tuple[Camera, tuple[float, float, float]]:
    """A camera to the left or right of the first, and where it is."""
    stream, first = Stream(f"{identity}/second camera"), scene.camera
    side = stream.uniform(0.25, 0.6) * (1 if stream.choice(2) else -1)
    origin = (side, first.height + stream.uniform(-0.15, 0.15), stream.uniform(-0.3, 0.2))
    tilt, zoom = stream.uniform(-0.06, 0.06), stream.uniform(0.85, 1.15)
    return Camera(origin[1], first.pitch + tilt, first.focal * zoom), origin


def _in_camera(camera: Camera, normal: Vector) -> Array:
    """World vectors (3, N) along the camera's axes: right, up, and towards the viewer."""
    cos, sin = math.cos(camera.pitch), math.sin(camera.pitch)
    return np.stack([normal[0], cos * normal[1] + sin * normal[2], sin * normal[1] - cos * normal[2]])


class _Hit(NamedTuple):
    """What each ray meets first: surface index, depth along the optical axis, point, outward normal."""

    surface: NDArray[np.int64]
    distance: Array
    point: Vector
    normal: Vector


def _rays(camera: Camera, size: int, u: float, v: float) -> Vector:
    """Directions whose component along the optical axis is 1, so that distance along a ray is depth in metres."""
    across = (np.arange(size) + u) / size * 2 - 1
    x = np.tile(across, size) / camera.focal
    y = np.repeat(-((np.arange(size) + v) / size * 2 - 1), size) / camera.focal
    cos, sin = math.cos(camera.pitch), math.sin(camera.pitch)
    return x, cos * y - sin, sin * y + cos


def _surfaces(scene: Scene, origin: tuple[float, float, float], ray: Vector) -> _Hit:
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = np.where(ray[1] < 0, -origin[1] / ray[1], np.inf)
        wall = (scene.wall - origin[2]) / ray[2]
        distance = np.minimum(floor, wall)
        index = np.where(floor < wall, FLOOR, WALL)
        normal = (np.zeros_like(wall), np.where(index == FLOOR, 1.0, 0.0), np.where(index == WALL, -1.0, 0.0))
        for k, solid in enumerate(scene.solids):
            near, side = _enter(solid, origin, ray)
            hit = near < distance
            if not hit.any():
                continue
            distance[hit], index[hit] = near[hit], FIRST_OBJECT + k
            for axis, value in zip(normal, _normal(solid, origin, ray, near, side, hit), strict=True):
                axis[hit] = value
    point = tuple(o + distance * d for o, d in zip(origin, ray, strict=True))
    return _Hit(index, distance, (point[0], point[1], point[2]), normal)


def _places(
    scene: Scene, camera: Camera, origin: tuple[float, float, float], hit: _Hit
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where points are in the picture of a camera, (2, N) from 0 to 1, and whether they are seen there, (N,)."""
    x, y, z = (p - o for p, o in zip(hit.point, origin, strict=True))
    cos, sin = math.cos(camera.pitch), math.sin(camera.pitch)
    depth = cos * z - sin * y
    across = (x / depth * camera.focal + 1) / 2
    down = (1 - (cos * y + sin * z) / depth * camera.focal) / 2
    # A ray to the point meets it first unless something is before it.
    met = _surfaces(scene, origin, (x / depth, y / depth, z / depth))
    inside = (depth > 0) & (across >= 0) & (across <= 1) & (down >= 0) & (down <= 1)
    seen = inside & (met.surface == hit.surface) & (np.abs(met.distance - depth) < SAME_POINT * depth)
    places = np.where(seen, np.stack([across, down]), 0)
    return places.astype(np.float32), seen.astype(np.float32)


def _local(solid: Solid, origin: tuple[float | Array, ...], ray: tuple[float | Array, ...]) -> tuple[Vector, Vector]:
    """Origin and direction in the solid's unit frame; the parameter along the ray is unchanged."""
    cos, sin = math.cos(solid.turn), math.sin(solid.turn)
    wide, high = solid.scale
    x, z = origin[0] - solid.position[0], origin[2] - solid.position[1]
    o = ((cos * x + sin * z) / wide, origin[1] / high, (cos * z - sin * x) / wide)
    d = ((cos * ray[0] + sin * ray[2]) / wide, ray[1] / high, (cos * ray[2] - sin * ray[0]) / wide)
    return o, d  # type: ignore[return-value]


def _enter(
    solid: Solid, origin: tuple[float | Array, ...], ray: tuple[float | Array, ...]
) -> tuple[Array, NDArray[np.int64]]:
    """Where each ray enters the solid (infinity for a miss) and through which of its sides (-1: the curved one)."""
    o, d = _local(solid, origin, ray)
    near, far = _curved(solid.shape, o, d)
    side = np.full(near.shape, -1)
    for k, ((a, b, c), bound) in enumerate(_PLANES[solid.shape]):
        slope = a * d[0] + b * d[1] + c * d[2]
        t = (bound - (a * o[0] + b * o[1] + c * o[2])) / slope
        entering = (slope < 0) & (t > near)
        near, side = np.where(entering, t, near), np.where(entering, k, side)
        far = np.where((slope > 0) & (t < far), t, far)
    return np.where((near < far) & (near > 1e-6), near, np.inf), side


def _curved(shape: str, o: Vector, d: Vector) -> tuple[Array, Array]:
    if shape == "sphere":
        return _roots(_dot(d, d), _dot(o, d) - d[1], _dot(o, o) - 2 * o[1])
    if shape == "cylinder":
        return _roots(d[0] * d[0] + d[2] * d[2], o[0] * d[0] + o[2] * d[2], o[0] * o[0] + o[2] * o[2] - 0.64)
    if shape == "cone":
        return _cone(o, d)
    infinite = np.full(np.shape(d[0]), np.inf)
    return -infinite, infinite


def _roots(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Interval in which a t^2 + 2 b t + c <= 0, for a > 0."""
    root = np.sqrt(b * b - a * c)
    miss = np.isnan(root)
    return np.where(miss, np.inf, (-b - root) / a), np.where(miss, -np.inf, (-b + root) / a)


def _cone(o: Vector, d: Vector) -> tuple[Array, Array]:
    h = 2 - o[1]
    a = d[0] * d[0] + d[2] * d[2] - 0.25 * d[1] * d[1]
    b = o[0] * d[0] + o[2] * d[2] + 0.25 * h * d[1]
    c = o[0] * o[0] + o[2] * o[2] - 0.25 * h * h
    root = np.sqrt(b * b - a * c)
    first, second = (-b - root) / a, (-b + root) / a
    low, high = np.fmin(first, second), np.fmax(first, second)
    # Along a steep ray the double cone is met outside the two roots; its lower half lies where the ray descends.
    steep, falling = a < 0, d[1] < 0
    near = np.where(steep, np.where(falling, high, -np.inf), low)
    far = np.where(steep, np.where(falling, np.inf, low), high)
    miss = np.isnan(root)
    return np.where(miss, np.inf, near), np.where(miss, -np.inf, far)


def _normal(
    solid: Solid,
    origin: tuple[float, float, float],
    ray: Vector,
    near: Array,
    side: NDArray[np.int64],
    hit: NDArray[np.bool_],
) -> Vector:
    t = near[hit]
    o, d = _local(solid, origin, tuple(r[hit] for r in ray))
    x, y, z = (o[k] + t * d[k] for k in range(3))
    if solid.shape == "sphere":
        n = [x, y - 1, z]
    elif solid.shape == "cone":
        n = [x, 0.25 * (2 - y), z]
    else:
        n = [x, np.zeros_like(y), z]
    for k, (plane, _) in enumerate(_PLANES[solid.shape]):
        flat = side[hit] == k
        n = [np.where(flat, p, axis) for p, axis in zip(plane, n, strict=True)]
    wide, high = solid.scale
    n = [n[0] / wide, n[1] / high, n[2] / wide]
    cos, sin = math.cos(solid.turn), math.sin(solid.turn)
    length = np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2])
    return (cos * n[0] - sin * n[2]) / length, n[1] / length, (sin * n[0] + cos * n[2]) / length


def _dot(a: Vector, b: Vector) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _classes(scene: Scene, index: NDArray[np.int64]) -> NDArray[np.uint8]:
    table = [FLOOR, WALL, *(FIRST_OBJECT + SHAPES.index(s.shape) for s in scene.solids)]
    return np.asarray(table, dtype=np.uint8)[index]


def _shade(scene: Scene, hit: _Hit) -> Array:
    facing = np.maximum(
        hit.normal[0] * scene.light[0] + hit.normal[1] * scene.light[1] + hit.normal[2] * scene.light[2], 0
    )
    lit = facing * ~_shadowed(scene, hit)
    colour = np.empty((len(lit), 3))
    textures = [scene.floor_texture, scene.wall_texture, *(s.texture for s in scene.solids)]
    for k, texture in enumerate(textures):
        here = hit.surface == k
        if here.any():
            colour[here] = _paint(texture, *(p[here] for p in hit.point))
    return colour * (scene.ambient + (1 - scene.ambient) * lit)[:, None]


def _shadowed(scene: Scene, hit: _Hit) -> NDArray[np.bool_]:
    start = tuple(p + 1e-4 * n for p, n in zip(hit.point, hit.normal, strict=True))
    light = tuple(np.full_like(start[0], c) for c in scene.light)
    shadow = np.zeros(len(start[0]), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        for solid in scene.solids:
            shadow |= np.isfinite(_enter(solid, start, light)[0])
    return shadow


def _paint(texture: Texture, x: Array, y: Array, z: Array) -> Array:
    """Plain, checks, stripes or smooth noise over a slanted pair of world coordinates."""
    u, v = (x + 0.5 * y) / texture.period, (z + 0.75 * y) / texture.period
    if texture.kind == 0:
        blend = np.zeros_like(u)
    elif texture.kind == 1:
        blend = (np.floor(u) + np.floor(v)) % 2
    elif texture.kind == 2:
        blend = np.floor(u + v) % 2
    else:
        blend = _noise(texture.table, 2 * u, 2 * v)
    return np.asarray(texture.colours[0] + blend[:, None] * (texture.colours[1] - texture.colours[0]))


def _noise(table: Array, u: Array, v: Array) -> Array:
    i, j = np.floor(u), np.floor(v)
    s, t = u - i, v - j
    a, b = i.astype(np.int64) % 16, j.astype(np.int64) % 16
    c, e = (a + 1) % 16, (b + 1) % 16
    top = table[a, b] * (1 - s) + table[c, b] * s
    bottom = table[a, e] * (1 - s) + table[c, e] * s
    return np.asarray(top * (1 - t) + bottom * t)
