import pytest


@pytest.fixture(scope="session", autouse=True)
def _simulated_once(simulated_once: None) -> None:
    """Every export of these tests uses the same simulated slices."""
