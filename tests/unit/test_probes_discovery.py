"""LOST against plain loops, planted objects, and near misses that have to give something else."""

import numpy as np
import pytest
import torch

from dtl_lib import data, load_pretrained, probes, record
from tests.unit.fixed import noise

SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0))


def by_hand(features: np.ndarray, k: int = 100, offset: float = 0.0, corners: bool = False):
    """Box, seed, mask of one image, `(rows, columns, dim)`, one pair of patches at a time."""
    rows, columns, _ = features.shape
    places = [(row, column) for row in range(rows) for column in range(columns)]
    product = {(a, b): float(features[a] @ features[b]) + offset for a in places for b in places}
    degree = {a: sum(product[a, b] >= 0 for b in places) for a in places}
    order = sorted(places, key=lambda a: (degree[a], a))
    seed = order[0]
    joined = [a for a in order[:k] if product[a, seed] >= 0 or a == seed]
    together = {a for a in places if sum(product[a, b] for b in joined) >= 0} | {seed}
    steps = (*SIDES, (1, 1), (1, -1), (-1, 1), (-1, -1)) if corners else SIDES
    found, waiting = {seed}, [seed]
    while waiting:
        row, column = waiting.pop()
        for down, across in steps:
            near = row + down, column + across
            if near in together and near not in found:
                found.add(near)
                waiting.append(near)
    down, across = ([place[axis] for place in found] for axis in (0, 1))
    mask = np.zeros((rows, columns), bool)
    mask[tuple(np.array(sorted(found)).T)] = True
    return (min(down), min(across), max(down) + 1, max(across) + 1), seed, mask, degree


def blobs(seed: int, batch: int = 4, rows: int = 5, columns: int = 8, dim: int = 3) -> torch.Tensor:
    """Features that neighbours share, so that objects have shapes."""
    rough = noise(batch, dim, rows, columns, seed=seed)
    return torch.nn.functional.avg_pool2d(rough, 3, 1, 1, count_include_pad=False).permute(0, 2, 3, 1)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("k", "offset"), [(100, 0.0), (7, 0.0), (1, 0.0), (100, -0.05), (100, 0.05), (100, -9.0)])
def test_it_is_what_loops_find(seed, k, offset):
    features = blobs(seed)
    found = probes.lost(features, k, offset)
    for number, image in enumerate(features.numpy()):
        box, start, mask, degree = by_hand(image, k, offset)
        assert tuple(found.boxes[number].tolist()) == box and tuple(found.seeds[number].tolist()) == start
        assert (found.masks[number].numpy() == mask).all()
        assert all(found.degrees[number][place] == count for place, count in degree.items())


def test_near_misses_give_something_else():
    """Otherwise the comparison above would prove little."""
    features = torch.cat([blobs(seed) for seed in range(8)])
    found = probes.lost(features)
    corners = [by_hand(image, corners=True)[2] for image in features.numpy()]
    assert any((mask != other).any() for mask, other in zip(found.masks.numpy(), corners))
    most = found.degrees.flatten(1).argmax(dim=1)
    assert (most != found.seeds[:, 0] * 8 + found.seeds[:, 1]).all(), "the patch with the most similar ones"
    for other in (probes.lost(features, k=1), probes.lost(features - features.mean((1, 2), keepdim=True))):
        assert not torch.equal(found.masks, other.masks)
    largest = features.norm(dim=-1).flatten(1).argmax(dim=1)
    assert (largest != found.seeds[:, 0] * 8 + found.seeds[:, 1]).any(), "the longest patch"


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (3, 5), (2, 7)])
@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_a_planted_object_is_found(place, size):
    thing, ground = noise(16, seed=1), noise(16, seed=2)
    thing = thing - ground * (thing @ ground) / (ground @ ground) - 0.5 * ground
    patches = ground + 0.1 * noise(1, 6, 10, 16, seed=3)
    (row, column), (height, width) = place, size
    patches[0, row : row + height, column : column + width] += thing - ground
    found = probes.lost(patches)
    assert found.boxes.tolist() == [[row, column, row + height, column + width]]
    true = torch.zeros(1, 6, 10, dtype=torch.bool)
    true[0, row : row + height, column : column + width] = True
    assert torch.equal(found.masks, true) and torch.equal(probes.boxes_of(true), found.boxes)


def test_a_part_that_is_not_connected_is_left_out():
    patches = torch.ones(1, 5, 9, 1).double()
    patches[0, 1:4, 1:3], patches[0, 2, 6] = -1.0, -1.0
    assert probes.lost(patches).boxes.tolist() == [[1, 1, 4, 3]]


def test_a_batch_gives_what_its_images_give_and_a_turned_image_a_turned_box():
    features = blobs(11)
    whole = probes.lost(features)
    for number in range(4):
        alone = probes.lost(features[number : number + 1])
        for name in ("boxes", "seeds", "masks", "degrees"):
            assert torch.equal(getattr(alone, name)[0], getattr(whole, name)[number])
    unique = whole.degrees.flatten(1).sort(dim=1).values
    clear = unique[:, 0] < unique[:, 1]  # elsewhere the reading order decides
    turned = probes.lost(features.transpose(1, 2))
    assert clear.any() and torch.equal(turned.masks.transpose(1, 2)[clear], whole.masks[clear])


def test_in_single_precision_and_on_equal_patches():
    features = blobs(2)
    assert torch.equal(probes.lost(features.float()).masks, probes.lost(features).masks)
    flat = probes.lost(torch.ones(1, 3, 4, 5))
    assert flat.boxes.tolist() == [[0, 0, 3, 4]] and flat.seeds.tolist() == [[0, 0]]


class TestBoxes:
    def test_boxes_are_what_loops_find(self):
        masks = noise(20, 5, 7, seed=4) > 0.8
        masks[:, 2, 3] = True
        for mask, box in zip(masks, probes.boxes_of(masks).tolist()):
            rows, columns = (sorted({place[axis] for place in np.argwhere(mask.numpy()).tolist()}) for axis in (0, 1))
            assert box == [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
        with pytest.raises(ValueError, match="a mask is empty"):
            probes.boxes_of(masks & False)
        with pytest.raises(ValueError, match="masks are bool"):
            probes.boxes_of(masks.float())

    def test_overlap_is_counted_in_pixels(self):
        boxes = torch.tensor([[0, 0, 4, 6], [1, 2, 3, 9], [5, 0, 7, 2], [0, 0, 4, 6]])
        others = torch.tensor([[2, 1, 6, 7], [1, 2, 3, 9], [0, 0, 4, 6], [4, 0, 8, 6]])
        for box, other, found in zip(boxes.tolist(), others.tolist(), probes.box_iou(boxes, others).tolist()):
            a, b = ({(r, c) for r in range(one[0], one[2]) for c in range(one[1], one[3])} for one in (box, other))
            assert found == pytest.approx(len(a & b) / len(a | b))

    def test_corloc_takes_any_object_and_more_than_a_half(self):
        boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 2, 2]])
        true = torch.tensor(
            [[[0, 0, 4, 8], [9, 9, 12, 12]], [[9, 9, 12, 12], [0, 0, 4, 7]], [[5, 5, 6, 6], [0, 3, 2, 5]]]
        )
        assert probes.corloc(boxes, true).tolist() == [False, True, False]  # one half is not more than a half
        assert probes.corloc(boxes, true[:, 1]).tolist() == [False, True, False]
        assert probes.corloc(boxes, true, least=0.4).tolist() == [True, True, False]
        with pytest.raises(ValueError, match="true ones"):
            probes.corloc(boxes[:2], true)


def test_on_shapes_it_beats_its_own_boxes_laid_on_other_images():
    model, test = load_pretrained("zoo/shapes_depth6"), data.load("shapes").test
    images, _ = test.batch(range(200))
    true = probes.boxes_of(test.masks(torch.arange(200)) > 0.5)
    with torch.no_grad(), record(model) as tape:
        model(images)
    boxes = 4 * probes.lost(probes.features(model, tape, 0, "token", "centre")["patches"]).boxes
    right, shifted = (float(probes.corloc(found, true).double().mean()) for found in (boxes, boxes.roll(1, 0)))
    assert right > shifted


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match=r"patches are \(batch, rows, columns, dim\)"):
        probes.lost(blobs(0).flatten(1, 2))
    with pytest.raises(ValueError, match="k is a whole number"):
        probes.lost(blobs(0), k=0)
    with pytest.raises(ValueError, match="k is a whole number"):
        probes.lost(blobs(0), k=1.5)
    with pytest.raises(ValueError, match="offset is a number"):
        probes.lost(blobs(0), offset=float("nan"))
    with pytest.raises(ValueError, match=r"patches are \(batch"):
        probes.lost(blobs(0)[:0])
    with pytest.raises(ValueError, match="non-finite"):
        probes.lost(blobs(0) / 0)
