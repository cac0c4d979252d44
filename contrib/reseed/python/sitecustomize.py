"""Loaded by Python when it finds this directory in PYTHONPATH."""

import sprout_reseed  # noqa: F401
