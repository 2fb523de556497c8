"""The torch-free runtime: load a bundle, score slices."""
