"""Folders as they are on real disks: closed ones, hidden ones, links that go in circles, files of rarer formats."""

import errno
import os

import pytest
from PIL import Image

from dtl_lib import data
from dtl_lib.__main__ import main
from dtl_lib.data import photos
from dtl_lib.data.sources.folder import pictures_by_class


@pytest.fixture
def pictures(tmp_path):
    """Two classes of twelve pictures, some of them a folder deeper."""
    for number in range(24):
        place = tmp_path / "pictures" / ("cat", "dog")[number % 2] / ("", "deeper")[number > 20]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (9 * number, 80, 160)).save(place / f"{number}.png")
    return tmp_path / "pictures"


def test_a_folder_that_cannot_be_read_is_named(pictures, monkeypatch, capsys):
    closed, real = str(pictures / "cat" / "deeper"), os.scandir

    def scandir(path="."):
        if str(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert main(["train", "--data", "folder", "--data-path", str(pictures), "--quiet"]) == 2
    assert capsys.readouterr().err == f"dtl: {closed}: Permission denied\n"


def test_what_is_hidden_is_no_class_and_no_picture(pictures):
    before = pictures_by_class(pictures)
    for hidden in (".ipynb_checkpoints/1.png", "cat/._1.png", "dog/.cache/1.png"):
        (pictures / hidden).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(pictures / hidden)
    assert pictures_by_class(pictures) == before


def test_links_are_followed_but_not_in_circles(pictures, tmp_path):
    before = pictures_by_class(pictures)
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "elsewhere/99.png")
    (pictures / "cat/more").symlink_to(tmp_path / "elsewhere")
    (pictures / "cat/deeper/up").symlink_to(pictures / "cat")
    (pictures / "dog/top").symlink_to(pictures)
    after = pictures_by_class(pictures)
    assert set(after["cat"]) - set(before["cat"]) == {str(pictures / "cat/more/99.png")}
    assert after["dog"] == before["dog"] and len(after["cat"]) == 13


@pytest.mark.parametrize("error", [RuntimeError("Failed to decode image"), NotImplementedError("Unimplemented DDS")])
def test_whatever_a_decoder_raises_is_a_corrupt_image(pictures, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(photos.Image, "open", refuse)
    with pytest.raises(data.CorruptImage, match=f"1.png is damaged or cut short .{error}"):
        photos.decode(pictures / "1.png", pictures / "1.png")
