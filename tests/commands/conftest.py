"""Fixtures that tests of a command share with those of its room."""

from tests.launch.reruns.conftest import trained, work  # noqa: F401
from tests.views.report.conftest import sweep  # noqa: F401
