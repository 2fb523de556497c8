"""Parts of the body, drawn roughly: what the image gate must tell from an abdomen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from support.strange_slices import Image, ellipse

AIR = -1000.0


def paint(image: Image, cover: Image, value: float) -> None:
    image += cover * (value - image)


def abdomen(wide: float = 220, tall: float = 160) -> Image:
    """Draw skin, fat, organs and a spine; half-axes in pixels."""
    image = np.full((512, 512), AIR, np.float32)
    paint(image, ellipse((0, 0), (wide, tall)), -100)
    paint(image, ellipse((0, 0), (wide * 0.88, tall * 0.85)), 50)
    paint(image, ellipse((0, tall * 0.45), (wide * 0.13, tall * 0.16)), 280)
    for side in (-1, 1):
        paint(image, ellipse((side * wide * 0.6, tall * 0.5), (wide * 0.08, tall * 0.05)), 350)
    return image


def abdomen_with_arms() -> Image:
    image = abdomen(170, 125)
    for side in (-1, 1):
        at = (side * 222.0, 20.0)
        paint(image, ellipse(at, (28, 34)), -90)
        paint(image, ellipse(at, (22, 28)), 55)
        paint(image, ellipse(at, (8, 8)), 900)
    return image


def dome() -> Image:
    """Draw lungs behind the liver."""
    image = abdomen()
    for side in (-1, 1):
        paint(image, ellipse((side * 110, 50), (70, 52)), -850)
    paint(image, ellipse((-70, -20), (110, 80)), 60)
    paint(image, ellipse((90, -20), (90, 80)), 50)
    paint(image, ellipse((0, 72), (28, 26)), 280)
    return image


def hips() -> Image:
    """Draw two femoral heads in their sockets, and no spine."""
    image = np.full((512, 512), AIR, np.float32)
    paint(image, ellipse((0, 0), (235, 160)), -100)
    paint(image, ellipse((0, 0), (200, 130)), 50)
    for side in (-1, 1):
        paint(image, ellipse((side * 118, 0), (46, 50)), 320)
    return image


def chest() -> Image:
    image = abdomen()
    for side in (-1, 1):
        paint(image, ellipse((side * 100, 0), (80, 115)), -870)
    paint(image, ellipse((0, 72), (28, 26)), 280)
    return image


def head() -> Image:
    image = np.full((512, 512), AIR, np.float32)
    paint(image, ellipse((0, 0), (150, 190)), -80)
    paint(image, ellipse((0, 0), (144, 184)), 1100)
    paint(image, ellipse((0, 0), (128, 168)), 36)
    return image


def face() -> Image:
    """Draw scattered bone and air, of which nothing is enclosed."""
    image = np.full((512, 512), AIR, np.float32)
    paint(image, ellipse((0, 0), (170, 190)), -90)
    paint(image, ellipse((0, 0), (155, 175)), 50)
    for side in (-1, 1):
        paint(image, ellipse((side * 60, -90), (35, 40)), -990)
        paint(image, ellipse((side * 95, -40), (30, 22)), 1100)
        paint(image, ellipse((side * 100, 60), (38, 26)), 900)
    paint(image, ellipse((0, 70), (40, 35)), 700)
    return image


def neck() -> Image:
    """Draw a spine and an airway; 120 cm2 at 0.5 mm."""
    image = np.full((512, 512), AIR, np.float32)
    paint(image, ellipse((0, 0), (125, 120)), -100)
    paint(image, ellipse((0, 0), (105, 100)), 55)
    paint(image, ellipse((0, 20), (26, 20)), 500)
    paint(image, ellipse((0, -50), (18, 18)), -990)
    return image


def shoulders() -> Image:
    image = np.full((512, 512), AIR, np.float32)
    paint(image, ellipse((0, 0), (250, 105)), -100)
    paint(image, ellipse((0, 0), (235, 90)), 55)
    for side in (-1, 1):
        paint(image, ellipse((side * 195, 0), (34, 34)), 300)
        paint(image, ellipse((side * 120, 40), (50, 8)), 300)
    paint(image, ellipse((0, 30), (26, 22)), 350)
    return image


def limbs() -> Image:
    """Draw two legs."""
    image = np.full((512, 512), AIR, np.float32)
    for side in (-1, 1):
        paint(image, ellipse((side * 120, 0), (90, 95)), -100)
        paint(image, ellipse((side * 120, 0), (76, 80)), 58)
        paint(image, ellipse((side * 120, 0), (18, 18)), 1200)
    return image


def spine() -> Image:
    """Draw a spine in a field of view that the body fills."""
    image = np.full((512, 512), 55, np.float32)
    image[:, :40] = -100
    image[440:] = AIR
    paint(image, ellipse((0, 0), (70, 60)), 300)
    return image


def phantom() -> Image:
    """Draw water in a shell, with an insert as dense as bone."""
    image = np.full((512, 512), AIR, np.float32)
    paint(image, ellipse((0, 0), (200, 200)), 120)
    paint(image, ellipse((0, 0), (195, 195)), 0)
    paint(image, ellipse((0, 60), (20, 20)), 900)
    return image


def air() -> Image:
    """Draw an empty table."""
    image = np.full((512, 512), AIR, np.float32)
    image[400:408, 60:450] = 100
    return image


FOREIGN: dict[str, tuple[Callable[[], Image], float, str]] = {
    "chest": (chest, 0.75, "chest"),
    "head": (head, 0.5, "head"),
    "face": (face, 0.5, "head, neck or limb"),
    "shoulders": (shoulders, 0.75, "shoulders"),
    "limbs": (limbs, 0.9, "legs, arms or a neck between them"),
    "spine": (spine, 0.4, "a small field of view"),
    "phantom": (phantom, 0.75, "a phantom, a map or a head"),
    "air": (air, 0.75, "air"),
}
"""What each shows, a pixel in mm, and the end of the reason that marks it, sized or not."""
