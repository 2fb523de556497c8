"""Write scores as DICOM objects (extra `dicom`). `clinreadnet.data` reads DICOM."""
