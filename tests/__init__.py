"""Tests, in folders that mirror the packages; what they share is in this one."""

import pytest

pytest.register_assert_rewrite("tests.contract", "tests.load", "tests.pairs", "tests.processes")
