"""DICOM objects made from scores. Extra `[dicom]`. Reading of DICOM is in `clinreadnet.data`."""
