"""Load and faults of the node, measured: `make node-load` (`record.py`).

The scorer is a bundle of a few operators (tests/support/tiny_bundle.py) and slices are small, so
this measures the node and not the network. The last phase has the shipped network.
"""
