"""Exported files as an HTTP service, on KServe's model server. MindSpore is not needed."""
