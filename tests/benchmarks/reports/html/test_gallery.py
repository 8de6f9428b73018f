from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustbench_cli.benchmarks.evaluation.saved_images import SavedImages
from robustbench_cli.benchmarks.reports.html import gallery
from robustbench_cli.benchmarks.reports.html.content import PageContent
from robustbench_cli.benchmarks.reports.html.gallery import galleries
from robustbench_cli.benchmarks.reports.html.page import page

from .conftest import MakeContent, save_images


def test_a_class_is_shown_by_an_image_that_the_attack_broke(make_content: MakeContent) -> None:
    """With its predictions before and after, and the factor by which the perturbation is magnified."""
    content = make_content()
    notes: list[str] = []
    (shown,) = galleries(content, notes)
    assert [(pair.index, pair.label) for pair in shown.pairs] == [(1, 0), (2, 1)]
    first = shown.pairs[0]
    assert (first.after, first.factor, first.size) == ("1", 127.0, (26, 8))
    assert first.alternative == (
        "Image 1 of class 0: clean, predicted 0; perturbation magnified 127 times; adversarial, predicted 1"
    )
    assert notes == []


def test_a_saliency_map_follows_the_clean_image(make_content: MakeContent) -> None:
    """Where there is one."""
    content = make_content()
    assert content.images is not None
    (file,) = content.images.glob("*.npz")
    saved = SavedImages.read(content.images, file.stem)
    replace(saved, saliency=np.full((4, 8, 8), 200, dtype=np.uint8)).write(content.images, file.stem)
    (shown,) = galleries(content, [])
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.pairs[0].picture.partition(",")[2]))))
    assert picture.shape[:2] == (8, 35)
    assert (picture[:, 9:17, :3] == 200).all()
    assert (picture[:, :8, :3] == 100).all()
    assert "predicted 0; saliency; perturbation" in shown.pairs[0].alternative


def test_draws_vote(make_content: MakeContent, tmp_path: Path) -> None:
    """The most frequent prediction of several draws has their number; a rejection is named."""
    assert gallery._prediction(np.array([3, 3, 5])) == "3 in 2 of 3 draws"
    assert gallery._prediction(np.array([-1])) == "rejected"
    assert gallery._prediction(np.array([-2])) == "no class"


def test_only_saved_images_have_a_gallery(make_content: MakeContent, tmp_path: Path) -> None:
    """No folder, or one without these cells, is a line on the page and no error."""
    assert list(galleries(make_content(images=None), [])) == []
    (tmp_path / "empty").mkdir()
    source = page(make_content(images=tmp_path / "empty"))
    assert "The folder of images has none of these rows." in source
    assert "advdef attack --save-images DIR" in page(make_content(images=None))


def test_damaged_images_are_a_line_on_the_page(make_content: MakeContent) -> None:
    """The rest of the page is there."""
    content = make_content()
    assert content.images is not None
    (file,) = content.images.glob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    source = page(content)
    assert "is missing or damaged" in source
    assert 'id="reproduce"' in source


def test_a_page_has_only_so_many_pictures(make_content: MakeContent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further galleries are left out with a line."""
    content = make_content()
    assert content.images is not None
    for result in content.results:
        save_images(content.images, result.cell.id)
    notes: list[str] = []
    assert len(list(galleries(content, notes))) == 6
    monkeypatch.setattr(gallery, "_MOST_BYTES", 1)
    assert len(list(galleries(content, notes))) == 1
    assert notes == ["5 more galleries are left out, so that the page stays small: choose rows with --where"]


def test_a_page_imports_no_torch_without_images(make_content: MakeContent) -> None:
    """It takes longer to import than the page takes to make."""
    import subprocess
    import sys

    code = (
        "import sys; from robustbench_cli.benchmarks.reports.html import page, content; "
        "from robustbench_cli.benchmarks.reports.rows import rows; "
        "page.page(content.PageContent(table=rows([], lambda _: None))); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_images_of_another_slice_are_not_mixed(make_content: MakeContent) -> None:
    """The prediction before is unknown where the stored outcomes are of other images."""
    content = make_content()
    other = PageContent(
        table=content.table, results=content.results, read=lambda results: None, images=content.images, verdicts=()
    )
    (shown,) = galleries(other, [])
    assert {pair.before for pair in shown.pairs} == {"unknown"}
