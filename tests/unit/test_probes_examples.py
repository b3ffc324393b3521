"""The examples in the docstrings of the probes give what they say."""

import doctest

import pytest

from dtl_lib import probes

EXAMPLES = [
    probes.flow,
    probes.likeliest,
    probes.logit_lens,
    probes.mass,
    probes.mean_attention_distance,
    probes.measure_distance,
    probes.over_images,
    probes.position_similarity,
    probes.principal_filters,
]


@pytest.mark.parametrize("probe", EXAMPLES, ids=lambda probe: probe.__name__)
def test_its_example_is_true(probe):
    (found,) = doctest.DocTestFinder(recurse=False).find(probe, globs={})
    failed, tried = doctest.DocTestRunner().run(found)
    assert not failed and tried
