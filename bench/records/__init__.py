"""Writers of bench/results and of single measurements that the docs state."""
