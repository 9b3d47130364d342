"""Helpers of several test modules; no test module imports another."""

import pytest

pytest.register_assert_rewrite("tests.helpers.runs")
