"""Fixtures that more than one test file uses."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from cli_entry import Chash
from hypothesis import settings

from concepthash.demo import write_dataset

# Time is measured in benchmarks/, never asserted in a test.
settings.register_profile("unhurried", settings(deadline=None))
settings.load_profile("unhurried")


@pytest.fixture
def chash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Chash:
    for name in [name for name in os.environ if name.startswith("CHASH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Chash(monkeypatch, capsys)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash layers of the baselines train just long enough, for tests of other than quality."""
    pytest.importorskip("torch")
    from concepthash.learn.baselines.hashlayer import HashLayerFit, Schedule
    from concepthash.learn.baselines.registry import BASELINES

    for name, method in BASELINES.items():
        if isinstance(method.fit, HashLayerFit):
            short = replace(method.fit, schedule=Schedule(steps=40))
            monkeypatch.setitem(BASELINES, name, replace(method, fit=short))


@pytest.fixture(scope="module")
def annotated_birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawn birds with key points, boxes and masks."""
    folder = tmp_path_factory.mktemp("birds")
    write_dataset(folder, species=3, images=4, size=48, seed=3)
    return folder
