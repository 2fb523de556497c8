"""Whether tests run whole that `make test` runs in part; `make test-all` says so."""

import os

WHOLE = os.environ.get("CLINREADNET_TEST_ALL") == "1"
