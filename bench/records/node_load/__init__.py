"""Measure the node under load and faults: `make node-load` (`record.py`).

The bundle has only a few operators (tests/support/tiny_bundle.py) and slices are small, so that the
node is measured, not the network. The last phase uses the shipped network.
"""
