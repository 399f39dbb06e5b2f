"""Resumable jobs: what an interrupted `embed` or `align` continues from."""
