"""Where images come from: files, folders, tars and URLs, decoded by worker processes, with their labels."""
