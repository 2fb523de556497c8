"""Programs that write bench/results and other measurements for the docs."""
