"""Bytes to pixels: decoding, transforms, face geometry, detection, crops. No torch: workers run it."""
