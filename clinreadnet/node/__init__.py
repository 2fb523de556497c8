"""A DICOM node: CT series come in by C-STORE, reports of their quality go out by C-STORE.

    scanner or PACS --C-STORE--> receive -> spool -> work -> spool -> send --C-STORE--> PACS

Everything that was accepted is on disk before it is answered. The process may be killed at any
moment: the next one goes on with the same spool. No module reaches torch.
"""
