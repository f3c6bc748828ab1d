"""Keys of a config that are refused."""

import pytest
from ml_collections import ConfigDict

from lnjax.training import options

CONFIG = ConfigDict({"dtype": "bfloat16", "units": 2, "layers": 1})


def test_what_fits_passes():
    options.check_dtype(CONFIG)
    options.check_positive(CONFIG, ["units", "layers"])
    options.check_least(CONFIG, {"units": 2, "layers": 0})


def test_what_does_not_is_named():
    with pytest.raises(ValueError, match="dtype='half' is not known; there are 'float32'"):
        options.check_dtype(ConfigDict({"dtype": "half"}))
    with pytest.raises(ValueError, match="layers=0 must be positive"):
        options.check_positive(ConfigDict({"units": 2, "layers": 0}), ["units", "layers"])
    with pytest.raises(ValueError, match="layers=1 must be at least 2"):
        options.check_least(CONFIG, {"units": 2, "layers": 2})
