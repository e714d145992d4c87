"""Random scenes for the ray caster: solids, textures, light and camera, all of one seeded stream for each image id."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHAPES = ("sphere", "box", "cylinder", "cone", "pyramid", "octahedron")


@dataclass(frozen=True)
class Texture:
    colours: Array
    kind: int
    period: float
    table: Array


@dataclass(frozen=True)
class Solid:
    shape: str
    position: tuple[float, float]
    scale: tuple[float, float]
    turn: float
    texture: Texture


@dataclass(frozen=True)
class Camera:
    height: float
    pitch: float
    focal: float


@dataclass(frozen=True)
class Scene:
    camera: Camera
    wall: float
    light: tuple[float, float, float]
    ambient: float
    solids: tuple[Solid, ...]
    floor_texture: Texture
    wall_texture: Texture
    grain: float


class Stream:
    """Uniform numbers from one seeded generator, the only source of randomness of a scene."""

    def __init__(self, identity: str) -> None:
        seed = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")
        self.generator = np.random.Generator(np.random.PCG64(seed))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.generator.random())

    def choice(self, count: int) -> int:
        return int(self.generator.random() * count)

    def array(self, *shape: int) -> Array:
        return self.generator.random(shape)


def sample_scene(identity: str, appearance: str = "") -> Scene:
    """The scene that belongs to an image id; another `appearance` keeps its geometry and redraws textures and light."""
    stream, look = Stream(identity), Stream(f"{identity}/appearance{appearance}")
    camera = Camera(stream.uniform(1.1, 1.7), stream.uniform(0.2, 0.36), stream.uniform(1.2, 1.5))
    wall = stream.uniform(4.5, 9.0)
    main_depth = stream.uniform(1.9, 2.8)
    solids = [_solid(stream, look, main_depth, stream.uniform(-0.4, 0.4), stream.uniform(0.6, 0.85))]
    for _ in range(2 + stream.choice(3)):
        depth = stream.uniform(main_depth + 0.4, wall - 0.6)
        solids.append(_solid(stream, look, depth, stream.uniform(-0.6, 0.6) * depth, stream.uniform(0.3, 0.55)))
    azimuth, height = look.uniform(-2.4, -0.7), look.uniform(0.6, 1.6)
    norm = math.sqrt(1 + height * height)
    return Scene(
        camera=camera,
        wall=wall,
        light=(math.cos(azimuth) / norm, height / norm, math.sin(azimuth) / norm),
        ambient=look.uniform(0.3, 0.5),
        solids=tuple(solids),
        floor_texture=_texture(look, 0.3, 0.9),
        wall_texture=_texture(look, 0.5, 1.5),
        grain=look.uniform(0.0, 0.03),
    )


def _solid(stream: Stream, look: Stream, depth: float, side: float, size: float) -> Solid:
    shape = SHAPES[stream.choice(len(SHAPES))]
    scale = (size, size * stream.uniform(0.8, 1.3))
    return Solid(shape, (side, depth), scale, stream.uniform(0, 2 * math.pi), _texture(look, 0.15, 0.5))


def _texture(look: Stream, low: float, high: float) -> Texture:
    colours = 0.12 + 0.8 * look.array(2, 3)
    return Texture(colours, look.choice(4), look.uniform(low, high), look.array(16, 16))
