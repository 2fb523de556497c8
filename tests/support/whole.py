"""Whether tests run in full. `make test` runs samples, `make test-all` everything."""

import os

WHOLE = os.environ.get("CLINREADNET_TEST_ALL") == "1"
