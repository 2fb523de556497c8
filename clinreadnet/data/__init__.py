"""Read CT slices: DICOM, LDCTIQA, MetaImage and NumPy files."""
