"""What every room uses: whole-file writes, locks, futures, progress, signals, device and launcher."""
