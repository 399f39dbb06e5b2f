"""The notebooks run from top to bottom, and are kept with their outputs."""

import shutil

import pytest
from helpers.files import ROOT

NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_prints(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs the extra facepcl[dev]")
    pytest.importorskip("ipykernel", reason="needs the extra facepcl[dev]")
    nbformat = pytest.importorskip("nbformat")
    for name in ("faces", "pcl_reference.py"):
        (tmp_path / name).symlink_to(ROOT / "examples" / name)
    shutil.copytree(path.parent, tmp_path / "notebooks")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    kept = nbformat.read(path, as_version=4)
    executed = nbformat.from_dict(kept)
    resources = {"metadata": {"path": str(tmp_path / "notebooks")}}
    nbclient.NotebookClient(executed, timeout=600, kernel_name="python3", resources=resources).execute()

    def printing(notebook):
        return [
            any(output.get("name") == "stdout" or "data" in output for output in cell.outputs)
            for cell in notebook.cells
            if cell.cell_type == "code"
        ]

    assert any(printing(kept))
    assert printing(kept) == printing(executed)
