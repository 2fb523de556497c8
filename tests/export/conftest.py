import pytest


@pytest.fixture(scope="session", autouse=True)
def _simulated_once(simulated_once: None) -> None:
    """Use the same simulated slices for every export of these tests."""
