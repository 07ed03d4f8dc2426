"""What the demo shows while its scan runs."""

import numpy as np
import pytest
from PIL import Image

from live4d_ophyd.commands.demo import GrowingImage


def half_seen():
    image = np.arange(12.0).reshape(3, 4)
    image[1:] = np.nan
    return image


def test_the_picture_is_the_newest_preview_and_what_is_not_seen_is_transparent(tmp_path, capsys):
    growing = GrowingImage(tmp_path, "live4d_vbf")
    growing("event", {"data": {"live4d_vbf": half_seen()}})
    growing("event", {"data": {"other": 3}})
    growing("descriptor", {"data_keys": {}})
    assert str(tmp_path / "growing.png") in capsys.readouterr().out
    with Image.open(tmp_path / "growing.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (3 * 128, 4 * 128, 2)
    assert (pixels[:128, :, 1] == 255).all()
    assert (pixels[128:, :, 1] == 0).all()
    assert (np.diff(pixels[0, ::128, 0].astype(int)) > 0).all()
    growing("event_page", {"data": {"live4d_vbf": [half_seen()[:, ::-1], np.ones((3, 4))]}})
    assert capsys.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["growing.png"]
    with Image.open(growing.save_animation()) as animation:
        assert animation.n_frames == 3


@pytest.mark.parametrize("image", [np.full((2, 2), np.nan), np.full((2, 2), 7.0), np.zeros((1, 1))])
def test_an_image_without_contrast_can_be_shown(tmp_path, image):
    GrowingImage(tmp_path, "vbf").add(image)
    assert (tmp_path / "growing.png").exists()


def test_no_preview_no_animation(tmp_path):
    assert GrowingImage(tmp_path, "vbf").save_animation() is None
