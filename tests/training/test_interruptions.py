"""Every command, interrupted once at a random moment and run again."""

import random

import pytest
from interruptions import interrupt_and_compare


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "train", "evaluate", "convert"])
def test_an_interrupted_command_ends_with_the_same_files(name, tmp_path):
    assert interrupt_and_compare(name, tmp_path, 1, random.Random(name))
