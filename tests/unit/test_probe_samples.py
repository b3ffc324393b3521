"""`--samples` of `dtl probe entry`: so many images of a data set, of all classes, each with its own label."""

import re

import torch

from dtl_lib import data
from dtl_lib.__main__ import main
from dtl_lib.data.numbered import Part
from dtl_lib.data.splits import subset

LINE = "probe entry zoo/shapes_depth6_reg4 --blocks 3 --ways itself --before present --workers 0 --device cpu --quiet"


def test_as_many_images_as_asked_for_with_their_labels(capsys):
    assert main([*LINE.split(), "--samples", "60"]) == 0
    out = capsys.readouterr().out
    assert ", n = 60; untouched: " in out
    right = float(re.search(r"untouched: ([\d.]+)", out)[1])
    assert right > 80, "labels of other images would give chance"


def test_a_part_has_the_labels_and_pixels_of_its_images():
    whole = data.load("shapes", image_size=16).test
    part = Part(whole, subset(len(whole), 9))
    for at, number in enumerate(subset(len(whole), 9)):
        (x, y), (same_x, same_y) = part.batch(torch.tensor([at])), whole.batch(number[None])
        assert torch.equal(x, same_x) and torch.equal(y, same_y)
    assert part.class_ids == whole.class_ids and len(part) == 9


def test_one_image_is_said_to_be_too_few(capsys):
    assert main([*LINE.replace("itself", "mean").split(), "--samples", "1"]) == 2
    assert "mean needs another image, and there is one: give two or more" in capsys.readouterr().err
