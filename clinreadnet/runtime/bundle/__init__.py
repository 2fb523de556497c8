"""The bundle folder: manifest, hashes, signatures, golden slices."""
