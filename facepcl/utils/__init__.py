"""What all subpackages use: whole-file writes, locks, futures, progress, signals, device and launcher."""
