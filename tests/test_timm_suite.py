"""timm's own model tests, on facepcl's models."""

import pytest
from timm_suite import command


@pytest.fixture(scope="module")
def timm_tests():
    """The folder with the tests of the installed timm, which pip downloads once."""
    try:
        return command.timm_tests(command.default_cache())
    except command.Unavailable as error:
        pytest.skip(str(error))


def check(results):
    assert results.models == ["pcl_facecycle", "pcl_resnet18", "pcl_resnet50"]
    assert (results.failed, results.skipped) == ({}, {})
    assert len(results.passed) >= 50


@pytest.mark.slow
@pytest.mark.parametrize("name", ["models", "registry"])
def test_timms_own_tests_pass(timm_tests, name):
    check(command.run_pass(name, timm_tests))


@pytest.mark.slow
def test_a_pattern_without_models_is_an_error(timm_tests):
    with pytest.raises(RuntimeError, match="no model of facepcl matches 'resnet18'; there are pcl_facecycle"):
        command.run_pass("models", timm_tests, models="resnet18")


def test_a_damaged_source_distribution_is_an_error(tmp_path):
    path = tmp_path / "timm.tar.gz"
    path.write_bytes(b"not a tar")
    with pytest.raises(command.Unavailable, match=r"cannot read .*timm\.tar\.gz \(.*\); pass --sdist"):
        command.timm_tests(tmp_path / "cache", path)
