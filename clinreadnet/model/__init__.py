"""The network, its checkpoints, and scoring with PyTorch."""
