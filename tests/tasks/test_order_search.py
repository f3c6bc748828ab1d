"""Looking for images: the nearest are found, and a sheet or a list is made of them."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import order_embeddings as config_file
from lnjax.data import DataError
from tasks import order_embeddings
from tasks.order_embeddings import drawing, search
from tests.data.coco_folder import CocoFolder


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A network that nobody trained, its config and spec; and the folder of its images."""
    base = tmp_path_factory.mktemp("coco")
    folder = CocoFolder(base / "files")
    folder.write_json()
    config = config_file.get_config("smoke")
    config.data, config.data_dir, config.fold_images = "real", str(folder.base), 2
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LNJAX_DATA_DIR", str(base / "cache"))
        spec = order_embeddings.make_data(config).spec
        task = order_embeddings.make_task(config, spec)
        params = task.init(jax.random.key(0), {})["params"]
        yield folder, config, spec, task, params


def test_the_nearest_are_found(coco):
    folder, config, spec, task, params = coco
    texts = ["a man rides the bike", "Dog, on the hill!"]
    queries = search.find(task, params, config, spec, texts, num=3)
    assert [query.text for query in queries] == texts
    words = list(spec["words"])
    features = folder.features["test"] / np.linalg.norm(folder.features["test"], axis=1)[:, None]
    images = np.asarray(task.network.apply({"params": params}, features, method="images"))
    for query, tokens in zip(queries, (texts[0].split(), "dog on the hill".split()), strict=True):
        ids = np.array([*(words.index(token) + 2 for token in tokens), 0], np.int32)
        caption = task.network.apply({"params": params}, ids, np.int32(len(ids)), method="captions")
        expected = np.maximum(np.asarray(caption) - images, 0) ** 2
        expected = expected.sum(axis=1)
        order = np.argsort(expected)[:3]
        assert [found.row for found in query.found] == order.tolist()
        assert [found.id for found in query.found] == [str(4000 + row) for row in order]
        distances = [found.distance for found in query.found]
        np.testing.assert_allclose(distances, expected[order], rtol=1e-4)


def test_of_coco_there_is_a_list(coco, tmp_path):
    _, config, spec, task, params = coco
    queries = search.find(task, params, config, spec, ["a dog"], num=2)
    search.write(tmp_path / "found.txt", queries, title="")
    first, *rest = (tmp_path / "found.txt").read_text().splitlines()
    assert first == "a dog" and len(rest) == 2
    assert rest[0].split()[0] == "1" and rest[0].endswith(f"row {queries[0].found[0].row}")
    with pytest.raises(ValueError, match=r"only features are known.*--out=found\.txt"):
        search.write(tmp_path / "found.png", queries, title="")
    assert not (tmp_path / "found.png").exists()


def test_files_that_are_gone_or_others(coco):
    folder, config, spec, task, params = coco
    gone = ConfigDict(config.to_dict())
    gone.data_dir = str(folder.base.parent / "nowhere")
    with pytest.raises(DataError, match="no features found"):
        search.find(task, params, gone, spec, ["a dog"])
    other = {**spec, "digest": "0" * 64}
    with pytest.raises(ValueError, match="not those that the run was trained with"):
        search.find(task, params, config, other, ["a dog"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a cat and a dog", "cannot look for 'and', 'cat': the network knows a, bike, caf"),
        ("?!", "no word to look for"),
        ("", "no word to look for"),
    ],
)
def test_words_that_are_not_known(coco, text, message):
    _, config, spec, task, params = coco
    with pytest.raises(ValueError, match=message):
        search.find(task, params, config, spec, [text])


def make_query(rng, num=3, **changes):
    found = [
        drawing.Found(f"test/{i}", i, 0.1 * i, rng.integers(0, 256, (6, 8)).astype(np.uint8))
        for i in range(num)
    ]
    found[-1] = found[-1]._replace(**changes)
    return drawing.Query("some words", found)


def test_a_sheet_shows_the_images(rng, tmp_path):
    queries = [make_query(rng), make_query(rng, num=2)]
    search.write(tmp_path / "a.png", queries, title="a title")
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.info["Title"] == "a title"
        pixels = np.asarray(sheet)
    for query in queries:
        for found in query.found:
            tile = np.kron(255 - found.image, np.ones((2, 2), np.uint8))
            windows = np.lib.stride_tricks.sliding_window_view(pixels, tile.shape)
            assert (windows == tile).all(axis=(2, 3)).sum() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((5, 8), np.uint8)}, "images of one size"),
        ({"distance": float("nan")}, "a distance is not finite"),
    ],
)
def test_what_cannot_be_drawn(rng, tmp_path, changes, message):
    path = tmp_path / "a.png"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match=message):
        search.write(path, [make_query(rng, **changes)], title="")
    with pytest.raises(ValueError, match="images of one size"):
        search.write(path, [], title="")
    assert path.read_bytes() == b"before"
