"""A DICOM node that receives CT series by C-STORE and sends reports of their quality by C-STORE.

    scanner or PACS --C-STORE--> receive -> spool -> work -> spool -> send --C-STORE--> PACS

Every accepted object is on disk before it is answered. The process may be killed at any moment: the
next process goes on with the same spool. No module imports torch.
"""
