"""What several tests begin with: an empty current folder, or a training run that is disturbed."""

import pytest

from dtl_lib.train import fit
from tests.unit.disturbed import RECIPE, small_sets, tiny


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def sets():
    """A few pictures."""
    return small_sets()


@pytest.fixture(scope="module")
def undisturbed(sets, tmp_path_factory):
    """The folder of a run that nothing has happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    fit(tiny(), sets, RECIPE, folder, progress=False, checkpoint_every=2)
    return folder
